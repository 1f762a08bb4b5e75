// The convolutions' tiles for any machine that the compiler builds for: SSE2 on x86-64, NEON on ARM64.
#define FASTVGAN_ISA portable
#define FASTVGAN_WIDTH 4
#include "conv_tiles.inc"

namespace fastvgan {
const Tiles* portable_tiles() { return &portable::kTiles; }
}  // namespace fastvgan
