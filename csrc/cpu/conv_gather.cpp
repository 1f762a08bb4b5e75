// The products of a gathered convolution: units of work, shared among threads.
#include "conv_gather.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "conv_gather_inputs.h"
#include "conv_gather_plan.h"
#include "conv_gather_weights.h"
#include "conv_packing.h"

namespace fastvgan {
namespace cpu {
namespace {

constexpr int64_t kLongest = 256;          // most words in a segment, which is added up at once
constexpr int64_t kMostPanelsAtOnce = 2;   // panels that a sink takes together

// Statistics of a unit's outputs before the activation.
struct Moments {
  std::vector<float> count;             // per panel
  std::vector<float> mean, deviations;  // per column; deviations: sum of squared differences from the mean

  void reset(int64_t panels, int64_t columns) {
    count.assign(panels, 0);
    mean.assign(columns, 0);
    deviations.assign(columns, 0);
  }
};

// Everything that the units of one call share.
struct Call {
  const Problem& problem;
  const GatherPlan& plan;
  const PackedWeights& weights;
  const Volume& x;
  const TileSink* sink;           // null: the results go to y
  std::vector<Moments>& moments;  // per unit; empty unless the problem needs statistics
};

// Computes units of work, one after the other. One per thread.
class Worker {
 public:
  explicit Worker(const Call& call)
      : call_(call),
        p_(call.problem),
        plan_(call.plan),
        tiles_(*call.plan.tiles),
        inputs_(call.problem, call.plan, call.x) {}

  void run(int64_t unit) {
    group_ = plan_.group_of(unit);
    panel_first_ = plan_.panel_begin(plan_.part_of(unit));
    panel_end_ = plan_.panel_begin(plan_.part_of(unit) + 1);
    find_rows(plan_.row_tile_of(unit));
    inputs_.reset(rows_, group_);
    if (p_.needs_statistics) {
      moments_ = &call_.moments[unit];
      moments_->reset(panel_end_ - panel_first_, (panel_end_ - panel_first_) * plan_.panel_width);
    }
    const int64_t span = plan_.span_of(unit);
    for (int64_t i = plan_.span_begin(span); i < plan_.span_begin(span + 1); ++i) run_plane(i);
  }

 private:
  const Call& call_;
  const Problem& p_;
  const GatherPlan& plan_;
  const Tiles& tiles_;
  int64_t group_ = 0, panel_first_ = 0, panel_end_ = 0;
  TileRows rows_;
  int64_t row_offsets_[kMostRows];  // bytes from the first row's output in y to each row's
  PackedInputs inputs_;
  std::vector<Segment> segments_;          // of all tiles of a plane
  std::vector<int64_t> segments_begin_;    // per tile, and the end
  Moments* moments_ = nullptr;
  alignas(64) float results_[kMostPanelsAtOnce * kTileSize];  // per panel: [rows][panel_width]

  void find_rows(int64_t row_tile) {
    const Lanes& lanes = plan_.lanes;
    for (int64_t r = 0; r < plan_.rows; ++r) {
      const int64_t row = row_tile * plan_.rows + r;
      rows_.sample[r] = row < p_.batch * lanes.outputs ? row / lanes.outputs : -1;
      rows_.output[r] = row % lanes.outputs;
      const int64_t offset = rows_.sample[r] * p_.y.sample + rows_.output[r] * lanes.step * p_.y.step[2];
      row_offsets_[r] = offset * p_.storage.size;
    }
  }

  void run_plane(int64_t first) {
    for (const InputTap& plane : plan_.order[0].inputs[first]) inputs_.pack_plane(plane.input);
    find_segments(plan_.order[0].inputs[first]);
    const std::vector<int64_t>&middle = plan_.order[1].positions, &last = plan_.order[2].positions;
    const int64_t columns = static_cast<int64_t>(last.size()), tiles = static_cast<int64_t>(middle.size()) * columns;
    for (int64_t panel = panel_first_; panel < panel_end_; panel += plan_.panels_at_once) {
      for (int64_t i = 0; i < tiles; ++i) {
        const Int3 at{plan_.order[0].positions[first], middle[i / columns], last[i % columns]};
        for (int64_t k = 0; k < plan_.panels_at_once; ++k) multiply(panel + k, i, results_ + k * kTileSize);
        call_.sink == nullptr ? store(panel, at) : pass_to_sink(panel, at);
      }
    }
  }

  // The products that make up each tile of a plane of outputs.
  void find_segments(const InputTaps& planes) {
    segments_.clear();
    segments_begin_.assign(1, 0);
    for (const InputTaps& lines : plan_.order[1].inputs) {
      for (const InputTaps& columns : plan_.order[2].inputs) {
        find_tile_segments(planes, lines, columns);
        segments_begin_.push_back(static_cast<int64_t>(segments_.size()));
      }
    }
    segments_.push_back({0, 0, 0});  // a tile without products points to it
  }

  void find_tile_segments(const InputTaps& planes, const InputTaps& lines, const InputTaps& columns) {
    const size_t begin = segments_.size();
    for (const InputTap& u : planes) {
      for (const InputTap& v : lines) {
        for (const InputTap& w : columns) {
          const int64_t at = inputs_.line_at(u.input, v.input) * plan_.line_words + w.input * plan_.slot_words;
          const int64_t tap = (u.tap * plan_.order[1].taps + v.tap) * plan_.order[2].taps + w.tap;
          for (int64_t k = 0; k < plan_.words; k += kLongest) {
            const int64_t length = std::min(kLongest, plan_.words - k);
            add_segment({(at + k) * plan_.rows, (tap * plan_.words + k) * plan_.panel_width, length}, begin);
          }
        }
      }
    }
  }

  // Extend the tile's previous segment if the next one follows it in both matrices.
  void add_segment(Segment next, size_t begin) {
    if (segments_.size() > begin) {
      Segment& previous = segments_.back();
      if (previous.a + previous.length * plan_.rows == next.a &&
          previous.b + previous.length * plan_.panel_width == next.b && previous.length + next.length <= kLongest) {
        previous.length += next.length;
        return;
      }
    }
    segments_.push_back(next);
  }

  void multiply(int64_t panel, int64_t tile, float* results) const {
    const Segment* segments = &segments_[segments_begin_[tile]];
    const int64_t count = segments_begin_[tile + 1] - segments_begin_[tile], width = plan_.panel_width;
    const Word* a = inputs_.words();
    const Word* b = call_.weights.words.get() + (group_ * plan_.panels + panel) * plan_.panel_size();
    const int64_t vectors = plan_.columns_in(panel) <= tiles_.width ? 1 : kVectors;
    if (plan_.blocks) return plan_.blocks->multiply(plan_.rows, vectors, a, b, segments, count, results, width, false);
    tiles_.multiply(plan_.has_pairs, plan_.rows, vectors, a, plan_.rows, b, segments, count, results, width, false);
  }

  // The stride is 1, so that adjacent rows of a sample are adjacent outputs.
  void pass_to_sink(int64_t panel, const Int3& at) const {
    for (int64_t r = 0, count; r < plan_.rows && rows_.sample[r] >= 0; r += count) {
      count = std::min(plan_.rows - r, plan_.lanes.outputs - rows_.output[r]);
      const Run run{rows_.sample[r], {at[0], at[1], at[2] + rows_.output[r]}, count};
      call_.sink->take(results_ + r * plan_.panel_width, panel, run);
    }
  }

  void store(int64_t panel, const Int3& at) {
    const int64_t columns = plan_.columns_in(panel), index = group_ * plan_.panels + panel;
    void* places[kMostRows * kWidestPanel];  // [rows][fold]; null: outside of y
    plan_.fold == 1 ? find_places(panel, at, places) : find_folded_places(panel, at, places);
    Epilogue epilogue = p_.epilogue;
    epilogue.bias = p_.bias == nullptr ? nullptr : &call_.weights.bias[index * plan_.panel_width];
    if (moments_ != nullptr) {
      const int64_t own = panel - panel_first_, column = own * plan_.panel_width;
      tiles_.add_moments(results_, places, plan_.rows, columns, epilogue.bias, &moments_->count[own],
                         &moments_->mean[column], &moments_->deviations[column]);
    }
    tiles_.store_rows(p_.storage.element, results_, places, plan_.rows, plan_.fold,
                      plan_.fold == 1 ? columns : p_.out_channels, epilogue);
  }

  void find_places(int64_t panel, const Int3& at, void** places) const {
    const Volume& y = p_.y;
    const int64_t channel = group_ * p_.out_channels + panel * plan_.panel_width;
    const int64_t offset = at[0] * y.step[0] + at[1] * y.step[1] + at[2] * y.step[2] + channel;
    char* first = static_cast<char*>(y.data) + offset * p_.storage.size;
    for (int64_t r = 0; r < plan_.rows; ++r) {
      const int64_t column = at[2] + rows_.output[r] * plan_.lanes.step;
      const bool is_inside = rows_.sample[r] >= 0 && column < p_.dimensions[2].out;
      places[r] = is_inside ? first + row_offsets_[r] : nullptr;
    }
  }

  void find_folded_places(int64_t panel, const Int3& at, void** places) const {
    const Volume& y = p_.y;
    const int64_t channel = group_ * p_.out_channels + panel * plan_.panel_width;
    const OutputOrder* order = plan_.order;
    // First what the rows share, per column group: bytes from y's first element, and the output along the last
    // dimension, which is far outside where another dimension's is.
    int64_t offsets[kWidestPanel], columns[kWidestPanel], count = 0;
    for (int64_t f0 = at[0]; f0 < at[0] + order[0].fold; ++f0) {
      for (int64_t f1 = at[1]; f1 < at[1] + order[1].fold; ++f1) {
        const bool is_inside = f0 >= 0 && f0 < p_.dimensions[0].out && f1 >= 0 && f1 < p_.dimensions[1].out;
        for (int64_t f2 = at[2]; f2 < at[2] + order[2].fold; ++f2, ++count) {
          offsets[count] = (f0 * y.step[0] + f1 * y.step[1] + f2 * y.step[2] + channel) * p_.storage.size;
          columns[count] = is_inside ? f2 : INT64_MIN / 2;
        }
      }
    }
    for (int64_t r = 0; r < plan_.rows; ++r, places += count) {
      const int64_t shift = rows_.output[r] * plan_.lanes.step;
      for (int64_t f = 0; f < count; ++f) {
        const int64_t column = columns[f] + shift;
        const bool is_inside = rows_.sample[r] >= 0 && column >= 0 && column < p_.dimensions[2].out;
        places[f] = is_inside ? static_cast<char*>(y.data) + row_offsets_[r] + offsets[f] : nullptr;
      }
    }
  }
};

// Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
void merge_moments(const Problem& p, const GatherPlan& plan, const std::vector<Moments>& moments, float* mean,
                   float* var) {
  for (int64_t c = 0; c < p.groups * p.out_channels; ++c) {
    const int64_t group = c / p.out_channels, column = c % p.out_channels;
    double count = 0, merged_mean = 0, deviations = 0;
    for (int64_t unit = 0; unit < plan.units; ++unit) {
      const Moments& part = moments[unit];
      const int64_t at = column - plan.panel_begin(plan.part_of(unit)) * plan.panel_width;
      if (plan.group_of(unit) != group || at < 0 || at >= static_cast<int64_t>(part.mean.size())) continue;
      const double added = part.count[at / plan.panel_width], total = count + added;
      if (added == 0) continue;
      const double difference = part.mean[at] - merged_mean;
      merged_mean += difference * added / total;
      deviations += part.deviations[at] + difference * difference * count * added / total;
      count = total;
    }
    mean[c] = static_cast<float>(merged_mean);
    var[c] = static_cast<float>(deviations / count);
  }
}

void run_units(const Call& call) {
  torch::stable::parallel_for(0, call.plan.units, 1, [&](int64_t begin, int64_t end) {
    Worker worker(call);
    const BlocksScope use(call.plan.blocks);
    for (int64_t unit = begin; unit < end; ++unit) worker.run(unit);
  });
}

}  // namespace

GatheredConv::GatheredConv(Problem problem)
    : problem_(std::move(problem)),
      plan_(std::make_unique<const GatherPlan>(make_gather_plan(problem_))),
      weights_(std::make_unique<const PackedWeights>(pack_weights(problem_, *plan_))) {}

GatheredConv::~GatheredConv() = default;

void GatheredConv::run(float* mean, float* var) const {
  std::vector<Moments> moments(problem_.needs_statistics ? plan_->units : 0);
  run_units({problem_, *plan_, *weights_, problem_.x, nullptr, moments});
  if (problem_.needs_statistics) merge_moments(problem_, *plan_, moments, mean, var);
}

void GatheredConv::run(const Volume& x, const TileSink& sink) const {
  std::vector<Moments> moments;
  run_units({problem_, *plan_, *weights_, x, &sink, moments});
}

Problem make_problem(bool up, const ConvShape& shape, const Tensor& x, const Tensor& weight, const Tensor& y) {
  check_weight(shape, weight);
  Problem p;
  p.up = up;
  p.batch = shape.batch;
  p.groups = shape.groups;
  p.in_channels = up ? shape.small_channels : shape.large_channels;
  p.out_channels = up ? shape.large_channels : shape.small_channels;
  const Int3 &in = up ? shape.small : shape.large, &out = up ? shape.large : shape.small;
  for (int d = 0; d < 3; ++d) {
    p.dimensions[d] = {in[d], out[d], shape.kernel[d], shape.stride[d], shape.padding[d], shape.dilation[d], up};
  }
  p.x = volume_of(x);
  p.y = volume_of(y);
  p.weight = volume_of(weight);
  STD_TORCH_CHECK(has_adjacent_channels(x) && has_adjacent_channels(y),
                  "conv: x and y must have adjacent channels (channels_last)");
  p.weight_in = up ? p.weight.sample : p.weight.channel;
  p.weight_out = up ? p.weight.channel : p.weight.sample;
  p.weight_group = shape.small_channels * p.weight.sample;
  p.storage = storage_of(x);
  p.weight_storage = storage_of(weight);
  STD_TORCH_CHECK(p.weight_storage.element == p.storage.element || p.weight_storage.element == Element::kFloat,
                  "conv: the dtypes differ: the weight must be float32 or have the dtype of x");
  return p;
}

}  // namespace cpu
}  // namespace fastvgan
