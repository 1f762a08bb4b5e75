// The convolutional LSTM's loops for any machine that the compiler builds for: SSE2 on x86-64, NEON on ARM64.
#define FASTVGAN_ISA portable
#define FASTVGAN_WIDTH 4
#include "conv_lstm_loops.inc"

namespace fastvgan {
const ConvLstmLoops* portable_conv_lstm_loops() { return &portable::kConvLstmLoops; }
}  // namespace fastvgan
