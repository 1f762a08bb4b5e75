// The inner loops for avx512. Only this file is compiled with flags for avx512.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FASTVGAN_ISA avx512
#define FASTVGAN_WIDTH 16
#include "loops.inc"

namespace fastvgan {
const Loops* avx512_loops() { return &avx512::kLoops; }
}  // namespace fastvgan
#else
#include "loops.h"

namespace fastvgan {
const Loops* avx512_loops() { return nullptr; }
}  // namespace fastvgan
#endif
