// The convolutional LSTM's loops for avx2; the build compiles this file alone with the flags for it.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FASTVGAN_ISA avx2
#define FASTVGAN_WIDTH 8
#include "conv_lstm_loops.inc"

namespace fastvgan {
const ConvLstmLoops* avx2_conv_lstm_loops() { return &avx2::kConvLstmLoops; }
}  // namespace fastvgan
#else
#include "conv_lstm_loops.h"

namespace fastvgan {
const ConvLstmLoops* avx2_conv_lstm_loops() { return nullptr; }
}  // namespace fastvgan
#endif
