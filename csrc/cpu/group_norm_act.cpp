// group_norm_act on the CPU, with the loops of norm_act on one unit of memory after the other.
//
// A unit is normalised in two passes, of which the second finds the unit in the cache. It is one sample of a tensor in
// channels_last, or enough groups of a contiguous tensor to make a piece. Results depend on the shape alone, not on the
// thread that computes a unit.
#include "../group_norm_act.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "large_pages.h"
#include "norm_act_plan.h"
#include "storage.h"

namespace fastvgan {
namespace cpu {
namespace {

// The tensor as groups, channels and units. Groups and channels are numbered through all samples: number i is channel
// i % channels of its sample.
struct Shape {
  Layout layout;
  int64_t channels, per_group, inner, groups;  // per_group: channels; inner: values per channel
  bool channels_last;
  int64_t unit_groups = 0, units = 0;

  Shape(const Tensor& x, int64_t groups_per_sample) : layout(layout_of(x)), channels(x.size(1)) {
    STD_TORCH_CHECK(groups_per_sample > 0 && channels % groups_per_sample == 0,
                    "group_norm_act: groups must divide the channels");
    per_group = channels / groups_per_sample;
    groups = x.size(0) * groups_per_sample;
    inner = layout.numel == 0 ? 0 : layout.numel / (x.size(0) * channels);
    channels_last = layout.inner == 1 && inner > 1 && channels > 1;
    if (layout.numel == 0) return;
    unit_groups = channels_last ? groups_per_sample : std::max<int64_t>(1, kPiece / count());
    units = ceil_divide(groups, unit_groups);
  }

  int64_t count() const { return per_group * inner; }  // values per group
};

struct Unit {
  int64_t group, groups, channel, channels, offset;
  Layout by_channel, by_group;

  Unit(const Shape& shape, int64_t index)
      : group(index * shape.unit_groups),
        groups(std::min(shape.unit_groups, shape.groups - group)),
        channel(group * shape.per_group),
        channels(groups * shape.per_group),
        offset(group * shape.count()) {
    by_channel.numel = by_group.numel = groups * shape.count();
    by_channel.channels = channels;
    by_channel.inner = shape.channels_last ? 1 : shape.inner;
    // A group of a contiguous tensor is one run.
    by_group.channels = shape.channels_last ? channels : groups;
    by_group.inner = shape.channels_last ? 1 : shape.count();
  }
};

// Call visit with each unit. Threads share the units if there are enough, else the pieces of each unit.
template <typename Visit>
void for_units(const Shape& shape, const Visit& visit) {
  const auto some = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(Unit(shape, i));
  };
  if (shape.units < static_cast<int64_t>(torch::stable::get_num_threads())) return some(0, shape.units);
  const int64_t values = shape.unit_groups * shape.count();
  torch::stable::parallel_for(0, shape.units, std::max<int64_t>(1, kSerial / values), some);
}

// Mean and 1 / √(variance + eps) of each group of a unit.
// Source: Chan, Golub and LeVeque, as for batch_moments.
void group_moments(const Shape& shape, const Unit& unit, Stored data, const void* x, double eps, float* mean,
                   float* inverse) {
  std::vector<double> means(unit.by_group.channels), variances(unit.by_group.channels);
  batch_moments(Plan(unit.by_group), unit.by_group, data, x, means.data(), variances.data());
  const int64_t parts = shape.channels_last ? shape.per_group : 1;  // parts of a group, with equally many values
  for (int64_t k = 0; k < unit.groups; ++k) {
    const double *of = &means[k * parts], *about = &variances[k * parts];
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < parts; ++c) sum += of[c];
    const double centre = sum / parts;
    for (int64_t c = 0; c < parts; ++c) squares += about[c] + (of[c] - centre) * (of[c] - centre);
    mean[k] = static_cast<float>(centre);
    inverse[k] = static_cast<float>(1 / std::sqrt(squares / parts + eps));
  }
}

// Weight and bias of a sample's channels; null for 1 and 0.
struct Weights {
  const float *weight, *bias;
  int64_t channels;

  float scale(int64_t channel) const { return weight ? weight[channel % channels] : 1.0f; }
  float shift(int64_t channel) const { return bias ? bias[channel % channels] : 0.0f; }
};

Affine affine_of(const Shape& shape, const Unit& unit, const Plan& plan, const Weights& weights, const float* mean,
                 const float* inverse) {
  std::vector<float> means(unit.channels), scales(unit.channels), shifts(unit.channels);
  for (int64_t k = 0; k < unit.channels; ++k) {
    const int64_t channel = unit.channel + k, group = channel / shape.per_group;
    means[k] = mean[group];
    scales[k] = weights.scale(channel) * inverse[group];
    shifts[k] = weights.shift(channel);
  }
  return Affine(plan, std::move(means), std::move(scales), std::move(shifts));
}

// Add the gradient through each group's mean and variance to `affine`; g and gx are the unit's gradient_sums.
void add_statistics_gradient(const Shape& shape, const Unit& unit, const Plan& plan, const Weights& weights,
                             const float* inverse, const std::vector<double>& g, const std::vector<double>& gx,
                             Affine& affine) {
  std::vector<float> constants(unit.channels), slopes(unit.channels);
  for (int64_t k = 0; k < unit.groups; ++k) {
    const double factor = inverse[unit.group + k];
    const int64_t first = k * shape.per_group, last = first + shape.per_group;
    double sum = 0, product = 0;
    for (int64_t c = first; c < last; ++c) {
      sum += weights.scale(unit.channel + c) * g[c];
      product += weights.scale(unit.channel + c) * gx[c];
    }
    const double constant = factor * sum / shape.count();
    const double slope = factor * factor * factor * product / shape.count();
    std::fill(&constants[first], &constants[first] + shape.per_group, static_cast<float>(constant));
    std::fill(&slopes[first], &slopes[first] + shape.per_group, static_cast<float>(slope));
  }
  affine.constant = expand(plan, std::move(constants));
  affine.slope = expand(plan, std::move(slopes));
}

// Add up the sums of the samples, in their order.
void sum_samples(const std::vector<double>& each, Tensor to) {
  const int64_t channels = to.numel();
  std::vector<double> sums(channels, 0.0);
  for (size_t i = 0; i < each.size(); ++i) sums[i % channels] += each[i];
  for (int64_t c = 0; c < channels; ++c) writable(to)[c] = static_cast<float>(sums[c]);
}

Tensor empty_statistics(const Tensor& x, int64_t groups) {
  return torch::stable::new_empty(x, {x.size(0), groups}, torch::headeronly::ScalarType::Float);
}

void check_statistics(const Tensor& statistics, const Tensor& x, int64_t groups) {
  STD_TORCH_CHECK(statistics.scalar_type() == torch::headeronly::ScalarType::Float && statistics.is_contiguous() &&
                      statistics.numel() == x.size(0) * groups,
                  "group_norm_act: mean and inverse must be dense float32 tensors with one value per group");
}

}  // namespace

ThreeTensors group_norm_act(Tensor x, int64_t groups, OptionalTensor weight, OptionalTensor bias, double eps,
                            int64_t activation, double slope) {
  const Shape shape(x, groups);
  check_activation(activation);
  check_parameter(weight, x, "weight");
  check_parameter(bias, x, "bias");
  const Tensor y = output_like(x), mean = empty_statistics(x, groups), inverse = empty_statistics(x, groups);
  if (shape.layout.numel == 0) {
    std::fill_n(writable(mean), mean.numel(), 0.0f);
    std::fill_n(writable(inverse), inverse.numel(), 0.0f);
    return {y, mean, inverse};
  }
  const Stored data = storage_of(x);
  const Weights weights{values(weight), values(bias), shape.channels};
  const void* all = x.const_data_ptr();
  void* result = y.mutable_data_ptr();
  float *means = writable(mean), *inverses = writable(inverse);
  for_units(shape, [&](const Unit& unit) {
    const void* from = data.at(all, unit.offset);
    void* to = data.at(result, unit.offset);
    group_moments(shape, unit, data, from, eps, means + unit.group, inverses + unit.group);
    const Plan plan(unit.by_channel);
    const Affine affine = affine_of(shape, unit, plan, weights, means, inverses);
    const bool streamed = streams(plan, shape.layout, data, 2, to);
    plan.for_pieces_reversed([&](int64_t, int64_t column, int64_t offset, Block piece) {
      loops().norm_act.apply(data.element, data.at(from, offset), data.at(to, offset), piece, affine.at(column),
                             plan.runs, activation, static_cast<float>(slope), streamed);
    });
  });
  return {y, mean, inverse};
}

ThreeTensors group_norm_act_backward(Tensor dy, Tensor x, int64_t groups, OptionalTensor weight, OptionalTensor bias,
                                     Tensor mean, Tensor inverse, int64_t activation, double slope) {
  const Shape shape(x, groups);
  check_activation(activation);
  check_like(dy, x, "dy");
  check_parameter(weight, x, "weight");
  check_parameter(bias, x, "bias");
  check_statistics(mean, x, groups);
  check_statistics(inverse, x, groups);
  const Tensor dx = output_like(x);
  const Tensor dweight = vector_like(x, shape.channels), dbias = vector_like(x, shape.channels);
  const Stored data = storage_of(x);
  const Weights weights{values(weight), values(bias), shape.channels};
  const void *incoming = dy.const_data_ptr(), *all = x.const_data_ptr();
  void* result = dx.mutable_data_ptr();
  const float *means = values(mean), *inverses = values(inverse), leak = static_cast<float>(slope);
  std::vector<double> weight_terms(x.size(0) * shape.channels), bias_terms(x.size(0) * shape.channels);
  for_units(shape, [&](const Unit& unit) {
    const void *gradient = data.at(incoming, unit.offset), *from = data.at(all, unit.offset);
    void* to = data.at(result, unit.offset);
    const Plan plan(unit.by_channel);
    Affine affine = affine_of(shape, unit, plan, weights, means, inverses);
    std::vector<double> g, gx;
    gradient_sums(plan, data, gradient, from, Residual{}, affine, activation, leak, g, gx);
    add_statistics_gradient(shape, unit, plan, weights, inverses, g, gx, affine);
    for (int64_t k = 0; k < unit.channels; ++k) {
      bias_terms[unit.channel + k] = g[k];
      weight_terms[unit.channel + k] = gx[k] * inverses[(unit.channel + k) / shape.per_group];
    }
    const bool streamed = streams(plan, shape.layout, data, 3, to);
    plan.for_pieces_reversed([&](int64_t, int64_t column, int64_t offset, Block piece) {
      loops().norm_act.gradient(data.element, data.at(gradient, offset), data.at(from, offset), data.at(to, offset),
                                piece, affine.at(column), plan.runs, true, activation, leak, streamed);
    });
  });
  sum_samples(weight_terms, dweight);
  sum_samples(bias_terms, dbias);
  return {dx, dweight, dbias};
}

}  // namespace cpu
}  // namespace fastvgan
