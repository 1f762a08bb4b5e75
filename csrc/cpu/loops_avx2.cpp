// The inner loops for avx2. Only this file is compiled with flags for avx2.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FASTVGAN_ISA avx2
#define FASTVGAN_WIDTH 8
#include "loops.inc"

namespace fastvgan {
const Loops* avx2_loops() { return &avx2::kLoops; }
}  // namespace fastvgan
#else
#include "loops.h"

namespace fastvgan {
const Loops* avx2_loops() { return nullptr; }
}  // namespace fastvgan
#endif
