// The steps of a convolutional LSTM, implemented in csrc/cpu. The schemas are in kernels/conv_lstm/compiled.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace fastvgan {
namespace cpu {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Run the steps from the state h and c. On entry, gates holds the inputs' contribution to each step's gates before
// their activations; on return, the gates.
void conv_lstm_steps(Tensor h, Tensor c, Tensor weight_hh, Tensor gates, Tensor output, Tensor cells);
// Write d_pre, the gradients of the gates before their activations. On entry, d_c is the gradient of the last cell; on
// return, that of c, the cell before the first of these steps. d_pre_after is d_pre of the step that follows the last
// one, if there is one.
void conv_lstm_steps_backward(OptionalTensor d_output, OptionalTensor d_pre_after, Tensor gates, Tensor c, Tensor cells,
                              Tensor weight_hh, Tensor d_c, Tensor d_pre);

}  // namespace cpu
}  // namespace fastvgan
