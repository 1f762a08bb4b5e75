// The three convolutions, implemented in csrc/cpu. Their schemas, with shapes and dtypes, are in
// kernels/conv/compiled.py, which also prepares the inputs and allocates the results.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace fastvgan {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;
using Int3 = std::array<int64_t, 3>;

// The sizes of a convolution from a large side to a small one, or of a transposed convolution from small to large.
// There are always three spatial dimensions: two become the first and the last, one becomes the last, and the others
// have size 1.
struct ConvShape {
  int64_t batch = 0, groups = 1;
  int64_t large_channels = 0, small_channels = 0;  // per group
  Int3 large{1, 1, 1}, small{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1};
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// The memory of a tensor (N, C, 1 to 3 sizes) or of a weight.
struct Volume {
  void* data = nullptr;
  int64_t sample = 0, channel = 0;  // elements from one sample, or channel, to the next
  Int3 step{0, 0, 0};               // elements from one position to the next, per spatial dimension
};

// Throws if the sizes do not fit each other.
ConvShape make_conv_shape(const Tensor& large, const Tensor& small, const Sizes& kernel_size, const Sizes& stride,
                          const Sizes& padding, const Sizes& dilation, int64_t groups);
// Throws if the weight's channels do not fit.
void check_weight(const ConvShape& shape, const Tensor& weight);
Sizes kernel_size_of(const Tensor& weight);
Volume volume_of(const Tensor& x);

namespace cpu {
// Write y = activation(conv(in_activation(x * scale + shift)) + bias) and, if given, mean and var: the mean and biased
// variance of each channel before the activation.
void conv_up(Tensor x, Tensor weight, OptionalTensor bias, Sizes stride, Sizes padding, Sizes dilation, int64_t groups,
             OptionalTensor scale, OptionalTensor shift, int64_t in_activation, double in_slope, int64_t activation,
             double slope, Tensor y, OptionalTensor mean, OptionalTensor var);
void conv_down(Tensor x, Tensor weight, OptionalTensor bias, Sizes stride, Sizes padding, Sizes dilation,
               int64_t groups, OptionalTensor scale, OptionalTensor shift, int64_t in_activation, double in_slope,
               int64_t activation, double slope, Tensor y, OptionalTensor mean, OptionalTensor var);
// Write the gradient of the weight, given the large side and the gradient of the small one, or the reverse.
void conv_weight_grad(Tensor large, Tensor small, Sizes stride, Sizes padding, Sizes dilation, int64_t groups,
                      Tensor grad);
}  // namespace cpu

}  // namespace fastvgan
