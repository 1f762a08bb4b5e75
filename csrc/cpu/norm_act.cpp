// norm_act on the CPU. norm_act_loops.inc has the arithmetic, norm_act_plan.h cuts a tensor into pieces.
#include "../norm_act.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "large_pages.h"
#include "loops.h"
#include "norm_act_plan.h"
#include "storage.h"

namespace fastvgan {
namespace cpu {
namespace {

// Forward; residual may be null.
ThreeTensors forward(const Tensor& x, const Tensor* residual, const OptionalTensor& weight, const OptionalTensor& bias,
                     const OptionalTensor& mean, const OptionalTensor& var, double eps, int64_t activation,
                     double slope) {
  const Layout layout = layout_of(x);
  check_activation(activation);
  check_parameter(weight, x, "weight");
  check_parameter(bias, x, "bias");
  check_parameter(mean, x, "mean");
  check_parameter(var, x, "var");
  const bool training = !mean.has_value();
  STD_TORCH_CHECK(training == !var.has_value(), "norm_act: pass both mean and var, or neither");
  if (residual) check_like(*residual, x, "residual");
  const Tensor y = output_like(x);
  const Tensor batch_mean = vector_like(x, training ? layout.channels : 0);
  const Tensor batch_var = vector_like(x, training ? layout.channels : 0);
  if (layout.numel == 0) {
    std::fill_n(writable(batch_mean), batch_mean.numel(), 0.0f);
    std::fill_n(writable(batch_var), batch_var.numel(), 0.0f);
    return {y, batch_mean, batch_var};
  }
  const Plan plan(layout);
  const Stored data = storage_of(x);
  const void* from = x.const_data_ptr();
  void* to = y.mutable_data_ptr();
  if (training) batch_moments(plan, layout, data, from, writable(batch_mean), writable(batch_var));
  const float* used_mean = training ? writable(batch_mean) : values(mean);
  const float* used_var = training ? writable(batch_var) : values(var);
  const Affine affine(plan, used_mean, used_var, values(weight), values(bias), eps);
  const void* added = residual ? residual->const_data_ptr() : nullptr;
  const bool streamed = streams(plan, layout, data, residual ? 3 : 2, to);
  const auto visit = [&](int64_t, int64_t column, int64_t offset, Block piece) {
    if (added) {
      loops().norm_act.apply_residual(data.element, data.at(from, offset), data.at(added, offset), data.at(to, offset),
                                      piece, affine.at(column), plan.runs, activation, static_cast<float>(slope),
                                      streamed);
      return;
    }
    loops().norm_act.apply(data.element, data.at(from, offset), data.at(to, offset), piece, affine.at(column),
                           plan.runs, activation, static_cast<float>(slope), streamed);
  };
  // In reverse only after a pass for the statistics; in order, the hardware prefetcher helps.
  if (training) plan.for_pieces_reversed(visit);
  else plan.for_pieces(visit);
  return {y, batch_mean, batch_var};
}

// Backward; with a residual, which may be null, its gradient is written to d_residual.
ThreeTensors backward(const Tensor& dy, const Tensor& x, const Tensor* residual, const Tensor* d_residual,
                      const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& mean, const Tensor& var,
                      bool training, double eps, int64_t activation, double slope) {
  const Layout layout = layout_of(x);
  check_like(dy, x, "dy");
  if (residual) check_like(*residual, x, "residual");
  check_activation(activation);
  check_parameter(weight, x, "weight");
  check_parameter(bias, x, "bias");
  check_parameter(mean, x, "mean");
  check_parameter(var, x, "var");
  const Tensor dx = output_like(x);
  const Tensor dweight = vector_like(x, layout.channels), dbias = vector_like(x, layout.channels);
  if (layout.numel == 0) {
    std::fill_n(writable(dweight), layout.channels, 0.0f);
    std::fill_n(writable(dbias), layout.channels, 0.0f);
    return {dx, dweight, dbias};
  }
  const Plan plan(layout);
  const Stored data = storage_of(x);
  const void *incoming = dy.const_data_ptr(), *from = x.const_data_ptr();
  void* to = dx.mutable_data_ptr();
  const float leak = static_cast<float>(slope);
  const float* variance = values(var);
  Affine affine(plan, values(mean), variance, values(weight), values(bias), eps);
  Residual residual_values;
  if (residual) residual_values = {residual->const_data_ptr(), d_residual->mutable_data_ptr()};
  std::vector<double> g, gx;
  gradient_sums(plan, data, incoming, from, residual_values, affine, activation, leak, g, gx);
  std::vector<float> constant(layout.channels), slopes(layout.channels);
  const double count = static_cast<double>(layout.per_channel());
  for (int64_t c = 0; c < layout.channels; ++c) {
    const double inverse = 1 / std::sqrt(variance[c] + eps);
    writable(dweight)[c] = static_cast<float>(gx[c] * inverse);
    writable(dbias)[c] = static_cast<float>(g[c]);
    const double scale = (weight.has_value() ? values(weight)[c] : 1.0) * inverse;
    constant[c] = static_cast<float>(scale * g[c] / count);
    slopes[c] = static_cast<float>(scale * gx[c] * inverse * inverse / count);
  }
  affine.constant = expand(plan, std::move(constant));
  affine.slope = expand(plan, std::move(slopes));
  // The residual's gradient is the gradient before the activation, which need not be computed again.
  if (residual) incoming = residual_values.gradient;
  const int64_t last = residual ? static_cast<int64_t>(kNone) : activation;
  const bool streamed = streams(plan, layout, data, 3, to);
  plan.for_pieces_reversed([&](int64_t, int64_t column, int64_t offset, Block piece) {
    loops().norm_act.gradient(data.element, data.at(incoming, offset), data.at(from, offset), data.at(to, offset),
                              piece, affine.at(column), plan.runs, training, last, leak, streamed);
  });
  return {dx, dweight, dbias};
}

}  // namespace

ThreeTensors norm_act(Tensor x, OptionalTensor weight, OptionalTensor bias, OptionalTensor mean, OptionalTensor var,
                      double eps, int64_t activation, double slope) {
  return forward(x, nullptr, weight, bias, mean, var, eps, activation, slope);
}

ThreeTensors norm_act_residual(Tensor x, Tensor residual, OptionalTensor weight, OptionalTensor bias,
                               OptionalTensor mean, OptionalTensor var, double eps, int64_t activation, double slope) {
  return forward(x, &residual, weight, bias, mean, var, eps, activation, slope);
}

ThreeTensors norm_act_backward(Tensor dy, Tensor x, OptionalTensor weight, OptionalTensor bias, Tensor mean, Tensor var,
                               bool training, double eps, int64_t activation, double slope) {
  return backward(dy, x, nullptr, nullptr, weight, bias, mean, var, training, eps, activation, slope);
}

FourTensors norm_act_residual_backward(Tensor dy, Tensor x, Tensor residual, OptionalTensor weight, OptionalTensor bias,
                                       Tensor mean, Tensor var, bool training, double eps, int64_t activation,
                                       double slope) {
  const Tensor d_residual = output_like(x);
  auto [dx, dweight, dbias] = backward(dy, x, &residual, &d_residual, weight, bias, mean, var, training, eps,
                                       activation, slope);
  return {dx, d_residual, dweight, dbias};
}

}  // namespace cpu
}  // namespace fastvgan
