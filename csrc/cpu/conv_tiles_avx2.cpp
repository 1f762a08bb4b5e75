// The convolutions' tiles for avx2; the build compiles this file alone with the flags for it.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FASTVGAN_ISA avx2
#define FASTVGAN_WIDTH 8
#include "conv_tiles.inc"

namespace fastvgan {
const Tiles* avx2_tiles() { return &avx2::kTiles; }
}  // namespace fastvgan
#else
#include "conv_tiles.h"

namespace fastvgan {
const Tiles* avx2_tiles() { return nullptr; }
}  // namespace fastvgan
#endif
