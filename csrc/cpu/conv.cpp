// conv_up and conv_down on the CPU.
#include "../conv.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "conv_gather.h"

namespace fastvgan {
namespace cpu {
namespace {

const float* floats(const OptionalTensor& values, int64_t count) {
  if (!values.has_value()) return nullptr;
  STD_TORCH_CHECK(values->scalar_type() == torch::headeronly::ScalarType::Float && values->numel() == count &&
                      values->is_contiguous(),
                  "conv: bias, scale, shift, mean and var must be contiguous float32, one value per channel");
  return static_cast<const float*>(values->const_data_ptr());
}

struct Options {
  const OptionalTensor &bias, &scale, &shift;
  int64_t in_activation;
  double in_slope;
  int64_t activation;
  double slope;
  const OptionalTensor &mean, &var;
};

void run(bool up, const ConvShape& shape, const Tensor& x, const Tensor& weight, const Tensor& y,
         const Options& options) {
  Problem p = make_problem(up, shape, x, weight, y);
  const int64_t inputs = p.in_channels * p.groups, outputs = p.out_channels * p.groups;
  p.prologue = {floats(options.scale, inputs), floats(options.shift, inputs), options.in_activation,
                static_cast<float>(options.in_slope)};
  STD_TORCH_CHECK((p.prologue.scale == nullptr) == (p.prologue.shift == nullptr),
                  "conv: pass both scale and shift, or neither");
  p.bias = floats(options.bias, outputs);
  p.epilogue = {nullptr, options.activation, static_cast<float>(options.slope)};
  float* mean = const_cast<float*>(floats(options.mean, outputs));
  float* var = const_cast<float*>(floats(options.var, outputs));
  STD_TORCH_CHECK((mean == nullptr) == (var == nullptr), "conv: pass both mean and var, or neither");
  p.needs_statistics = mean != nullptr;
  if (shape.batch == 0 || outputs == 0) {
    std::fill_n(mean, mean == nullptr ? 0 : outputs, NAN);
    std::fill_n(var, var == nullptr ? 0 : outputs, NAN);
    return;
  }
  GatheredConv(std::move(p)).run(mean, var);
}

}  // namespace

void conv_up(Tensor x, Tensor weight, OptionalTensor bias, Sizes stride, Sizes padding, Sizes dilation, int64_t groups,
             OptionalTensor scale, OptionalTensor shift, int64_t in_activation, double in_slope, int64_t activation,
             double slope, Tensor y, OptionalTensor mean, OptionalTensor var) {
  const ConvShape shape = make_conv_shape(y, x, kernel_size_of(weight), stride, padding, dilation, groups);
  run(true, shape, x, weight, y, {bias, scale, shift, in_activation, in_slope, activation, slope, mean, var});
}

void conv_down(Tensor x, Tensor weight, OptionalTensor bias, Sizes stride, Sizes padding, Sizes dilation,
               int64_t groups, OptionalTensor scale, OptionalTensor shift, int64_t in_activation, double in_slope,
               int64_t activation, double slope, Tensor y, OptionalTensor mean, OptionalTensor var) {
  const ConvShape shape = make_conv_shape(x, y, kernel_size_of(weight), stride, padding, dilation, groups);
  run(false, shape, x, weight, y, {bias, scale, shift, in_activation, in_slope, activation, slope, mean, var});
}

}  // namespace cpu
}  // namespace fastvgan
