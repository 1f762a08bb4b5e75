// The convolutional LSTM's loops for avx512bf16; the build compiles this file alone with the flags for it.
#if defined(__AVX512BF16__) && defined(__AVX512F__) && defined(__AVX512BW__) && \
    defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FASTVGAN_ISA avx512bf16
#define FASTVGAN_WIDTH 16
#include "conv_lstm_loops.inc"

namespace fastvgan {
const ConvLstmLoops* avx512bf16_conv_lstm_loops() { return &avx512bf16::kConvLstmLoops; }
}  // namespace fastvgan
#else
#include "conv_lstm_loops.h"

namespace fastvgan {
const ConvLstmLoops* avx512bf16_conv_lstm_loops() { return nullptr; }
}  // namespace fastvgan
#endif
