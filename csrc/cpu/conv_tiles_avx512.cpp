// The convolutions' tiles for avx512; the build compiles this file alone with the flags for it.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FASTVGAN_ISA avx512
#define FASTVGAN_WIDTH 16
#include "conv_tiles.inc"

namespace fastvgan {
const Tiles* avx512_tiles() { return &avx512::kTiles; }
}  // namespace fastvgan
#else
#include "conv_tiles.h"

namespace fastvgan {
const Tiles* avx512_tiles() { return nullptr; }
}  // namespace fastvgan
#endif
