// The inner loops for amx: those of avx512bf16, and products of blocks. Only this file is compiled with flags for amx.
#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512F__) && \
    defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FASTVGAN_ISA amx
#define FASTVGAN_WIDTH 16
#include "loops.inc"

namespace fastvgan {
const Loops* amx_loops() { return &amx::kLoops; }
}  // namespace fastvgan
#else
#include "loops.h"

namespace fastvgan {
const Loops* amx_loops() { return nullptr; }
}  // namespace fastvgan
#endif
