// The inner loops for avx512bf16. Only this file is compiled with flags for avx512bf16.
#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#define FASTVGAN_ISA avx512bf16
#define FASTVGAN_WIDTH 16
#include "loops.inc"

namespace fastvgan {
const Loops* avx512bf16_loops() { return &avx512bf16::kLoops; }
}  // namespace fastvgan
#else
#include "loops.h"

namespace fastvgan {
const Loops* avx512bf16_loops() { return nullptr; }
}  // namespace fastvgan
#endif
