// The three convolutions: what csrc/cpu implements. The schemas, with shapes and dtypes, are in
// kernels/conv/compiled.py, which also makes inputs fit and allocates the results.
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
using Three = std::array<int64_t, 3>;

// A convolution between a large side (its input, a transposed one's output) and a small one, in three spatial
// dimensions. Of two, the first is the first of three, the second the last; of one, it is the last.
struct ConvShape {
  int64_t batch = 0, groups = 1;
  int64_t large_channels = 0, small_channels = 0;  // of a group
  Three large{1, 1, 1}, small{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1};
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// A tensor (N, C, 1 to 3 sizes), or a weight: where its elements lie.
struct Volume {
  void* data = nullptr;
  int64_t sample = 0, channel = 0;  // elements from one to the next
  Three step{0, 0, 0};              // and along each spatial dimension
};

// Throw where the sizes do not fit each other.
ConvShape conv_shape(const Tensor& large, const Tensor& small, const Sizes& kernel_size, const Sizes& stride,
                     const Sizes& padding, const Sizes& dilation, int64_t groups);
void check_weight(const ConvShape& shape, const Tensor& weight);
Sizes kernel_size_of(const Tensor& weight);
Volume volume_of(const Tensor& x);

namespace cpu {
// y = activation(conv(in_activation(x * scale + shift)) + bias), and where they are given, the mean and biased
// variance of each channel of what the activation got.
void conv_up(Tensor x, Tensor weight, OptionalTensor bias, Sizes stride, Sizes padding, Sizes dilation, int64_t groups,
             OptionalTensor scale, OptionalTensor shift, int64_t in_activation, double in_slope, int64_t activation,
             double slope, Tensor y, OptionalTensor mean, OptionalTensor var);
void conv_down(Tensor x, Tensor weight, OptionalTensor bias, Sizes stride, Sizes padding, Sizes dilation,
               int64_t groups, OptionalTensor scale, OptionalTensor shift, int64_t in_activation, double in_slope,
               int64_t activation, double slope, Tensor y, OptionalTensor mean, OptionalTensor var);
void conv_weight_grad(Tensor large, Tensor small, Sizes stride, Sizes padding, Sizes dilation, int64_t groups,
                      Tensor grad);
}  // namespace cpu

}  // namespace fastvgan
