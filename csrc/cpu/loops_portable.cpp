// The inner loops for every machine, with the compiler's default flags: SSE2 on x86-64, NEON on ARM64.
#define FASTVGAN_ISA portable
#define FASTVGAN_WIDTH 4
#include "loops.inc"

namespace fastvgan {
const Loops* portable_loops() { return &portable::kLoops; }
}  // namespace fastvgan
