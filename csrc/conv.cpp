// Checks of the arguments of the convolutions.
#include "conv.h"

#include <torch/csrc/stable/library.h>

namespace fastvgan {

namespace {

// The one of three dimensions that dimension i of `dims` becomes.
int64_t dimension_of(int64_t i, int64_t dims) { return dims == 3 ? i : (i == dims - 1 ? 2 : 0); }

Int3 to_int3(const Sizes& values, int64_t dims, int64_t rest) {
  STD_TORCH_CHECK(static_cast<int64_t>(values.size()) == dims,
                  "conv: kernel, stride, padding and dilation need one integer per spatial dimension");
  Int3 all{rest, rest, rest};
  for (int64_t i = 0; i < dims; ++i) all[dimension_of(i, dims)] = values[i];
  return all;
}

Int3 sizes_of(const Tensor& x) {
  Sizes sizes;
  for (int64_t d = 2; d < x.dim(); ++d) sizes.push_back(x.size(d));
  return to_int3(sizes, x.dim() - 2, 1);
}

}  // namespace

Sizes kernel_size_of(const Tensor& weight) {
  Sizes sizes;
  for (int64_t d = 2; d < weight.dim(); ++d) sizes.push_back(weight.size(d));
  return sizes;
}

Volume volume_of(const Tensor& x) {
  Volume volume{x.data_ptr(), x.stride(0), x.stride(1), {0, 0, 0}};
  for (int64_t d = 2; d < x.dim(); ++d) volume.step[dimension_of(d - 2, x.dim() - 2)] = x.stride(d);
  return volume;
}

ConvShape make_conv_shape(const Tensor& large, const Tensor& small, const Sizes& kernel_size, const Sizes& stride,
                          const Sizes& padding, const Sizes& dilation, int64_t groups) {
  const int64_t dims = large.dim() - 2;
  STD_TORCH_CHECK(dims >= 1 && dims <= 3 && small.dim() == large.dim(),
                  "conv: tensors must be (N, C) and 1 to 3 spatial sizes");
  STD_TORCH_CHECK(large.size(0) == small.size(0), "conv: the batch sizes of the inputs and outputs differ");
  STD_TORCH_CHECK(large.scalar_type() == small.scalar_type(),
                  "conv: the dtypes differ: inputs and outputs must have the same dtype");
  STD_TORCH_CHECK(groups > 0 && large.size(1) % groups == 0 && small.size(1) % groups == 0,
                  "conv: groups must divide the channels");
  ConvShape shape;
  shape.batch = large.size(0);
  shape.groups = groups;
  shape.large_channels = large.size(1) / groups;
  shape.small_channels = small.size(1) / groups;
  shape.large = sizes_of(large);
  shape.small = sizes_of(small);
  shape.kernel = to_int3(kernel_size, dims, 1);
  shape.stride = to_int3(stride, dims, 1);
  shape.padding = to_int3(padding, dims, 0);
  shape.dilation = to_int3(dilation, dims, 1);
  for (int i = 0; i < 3; ++i) {
    STD_TORCH_CHECK(shape.kernel[i] > 0 && shape.stride[i] > 0 && shape.padding[i] >= 0 && shape.dilation[i] > 0,
                    "conv: kernel, stride and dilation must be positive and padding at least 0");
    const int64_t least = (shape.small[i] - 1) * shape.stride[i] - 2 * shape.padding[i] +
                          shape.dilation[i] * (shape.kernel[i] - 1) + 1;
    const int64_t extra = shape.large[i] - least;
    STD_TORCH_CHECK(extra >= 0 && extra < std::max(shape.stride[i], shape.dilation[i]),
                    "conv: the input and output sizes do not fit the kernel, stride, padding and dilation");
  }
  return shape;
}

void check_weight(const ConvShape& shape, const Tensor& weight) {
  STD_TORCH_CHECK(weight.size(0) == shape.small_channels * shape.groups && weight.size(1) == shape.large_channels,
                  "conv: the weight does not fit the channels of the inputs and outputs");
}

}  // namespace fastvgan
