// Batch normalisation and an activation as one operation, implemented in csrc/cpu and csrc/cuda. The schemas, with
// shapes and dtypes, are in kernels/norm_act/compiled.py, which also makes inputs dense.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace fastvgan {

enum Activation : int64_t { kNone = 0, kRelu = 1, kLeakyRelu = 2, kTanh = 3, kSilu = 4, kGelu = 5 };

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;
using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The position of the channels in a dense tensor: element i belongs to channel (i / inner) % channels.
// inner is 1 for channels innermost (channels_last), the spatial size for channels outermost (contiguous).
struct Layout {
  int64_t numel = 0;
  int64_t channels = 0;
  int64_t inner = 1;
  int64_t per_channel() const { return channels > 0 ? numel / channels : 0; }
};

// The checks throw if a tensor does not fit: layout_of if x is not dense, or its dtype or number of dimensions is not
// supported.
Layout layout_of(const Tensor& x);
void check_like(const Tensor& other, const Tensor& x, const char* name);
void check_activation(int64_t activation);
void check_parameter(const OptionalTensor& parameter, const Tensor& x, const char* name);

namespace cpu {
ThreeTensors norm_act(Tensor x, OptionalTensor weight, OptionalTensor bias, OptionalTensor mean, OptionalTensor var,
                      double eps, int64_t activation, double slope);
ThreeTensors norm_act_backward(Tensor dy, Tensor x, OptionalTensor weight, OptionalTensor bias, Tensor mean, Tensor var,
                               bool training, double eps, int64_t activation, double slope);
ThreeTensors norm_act_residual(Tensor x, Tensor residual, OptionalTensor weight, OptionalTensor bias,
                               OptionalTensor mean, OptionalTensor var, double eps, int64_t activation, double slope);
FourTensors norm_act_residual_backward(Tensor dy, Tensor x, Tensor residual, OptionalTensor weight, OptionalTensor bias,
                                       Tensor mean, Tensor var, bool training, double eps, int64_t activation,
                                       double slope);
}  // namespace cpu

namespace cuda {
ThreeTensors norm_act(Tensor x, OptionalTensor weight, OptionalTensor bias, OptionalTensor mean, OptionalTensor var,
                      double eps, int64_t activation, double slope);
ThreeTensors norm_act_backward(Tensor dy, Tensor x, OptionalTensor weight, OptionalTensor bias, Tensor mean, Tensor var,
                               bool training, double eps, int64_t activation, double slope);
}  // namespace cuda

}  // namespace fastvgan
