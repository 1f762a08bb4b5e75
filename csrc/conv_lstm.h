// The steps of a convolutional LSTM: what csrc/cpu implements. The schemas are in kernels/conv_lstm/compiled.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace fastvgan {
namespace cpu {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// From h and c on. Before, gates are the inputs' half of each step's gates; after, the gates.
void conv_lstm_steps(Tensor h, Tensor c, Tensor weight_hh, Tensor gates, Tensor output, Tensor cells);
// The gradients d_pre of the gates before their functions, and d_c, before: of the last cell, after: of c, the cell
// before the first of these steps. d_pre_after is d_pre of the step that follows them, if one does.
void conv_lstm_steps_backward(OptionalTensor d_output, OptionalTensor d_pre_after, Tensor gates, Tensor c,
                              Tensor cells, Tensor weight_hh, Tensor d_c, Tensor d_pre);

}  // namespace cpu
}  // namespace fastvgan
