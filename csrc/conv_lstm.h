// The pointwise part of a convolutional LSTM's step: what csrc/cpu implements. The schemas are in
// kernels/conv_lstm/compiled.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace fastvgan {
namespace cpu {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

void conv_lstm_update(Tensor inputs, Tensor recurrent, Tensor c, Tensor h_next, Tensor c_next, Tensor gates);
void conv_lstm_update_backward(OptionalTensor d_output, OptionalTensor d_h, Tensor gates, Tensor c, Tensor c_next,
                               Tensor d_c, Tensor d_pre);

}  // namespace cpu
}  // namespace fastvgan
