#include "conv_gather_plan.h"

#include <algorithm>

#include "conv_packing.h"
#include "loops.h"

namespace fastvgan {
namespace cpu {
namespace {

constexpr int64_t kManySamples = 8;                 // samples that fill tiles without neighbouring outputs
constexpr int64_t kLargestPlane = 1 << 20;  // most values in a packed plane; else rows are neighbouring outputs
constexpr int64_t kLargestPlaneOfBlocks = 1 << 18;  // the same for blocks, which have more rows
constexpr int64_t kFewChannels = 8;  // most input channels for which taps count as channels
constexpr int64_t kUnits = 8;  // fewest units, so that threads finish at about the same time

void choose_instructions(const Problem& p, GatherPlan& plan) {
  plan.tiles = &loops().conv;
  plan.has_pairs = plan.tiles->pairs && p.storage.element == Element::kBFloat16;
  plan.blocks = plan.has_pairs ? plan.tiles->blocks : nullptr;
  plan.panel_width = kVectors * plan.tiles->width;
  plan.panels_at_once = p.panels_at_once;
}

// Fold dimensions until a panel is full. Taps that a folded kernel lacks would be zeros, so a kernel smaller than the
// stride, or a dilated one, is not folded.
void choose_order(const Problem& p, GatherPlan& plan) {
  const bool can_fold = p.up && !p.needs_statistics && !p.has_sink;
  int64_t total = p.out_channels;
  for (int d = 2; d >= 0; --d) {
    const Dimension& dimension = p.dimensions[d];
    const bool folds = can_fold && dimension.stride != 1 && dimension.dilation == 1 &&
                       dimension.kernel >= dimension.stride && total * dimension.stride <= plan.panel_width;
    if (folds) total *= dimension.stride;
    plan.order[d] = folds ? fold_outputs(dimension) : order_outputs(dimension);
  }
  plan.fold = plan.order[0].fold * plan.order[1].fold * plan.order[2].fold;
  plan.columns = p.channel_of_column.empty() ? p.out_channels * plan.fold
                                             : static_cast<int64_t>(p.channel_of_column.size());
  plan.panels = ceil_divide(plan.columns, plan.panel_width);
}

void choose_rows(const Problem& p, GatherPlan& plan) {
  const Dimension& last = p.dimensions[2];
  const int64_t most_rows = plan.blocks ? kMostRows : plan.tiles->most_rows;
  const int64_t plane = p.dimensions[1].in * last.in * p.in_channels * std::min(p.batch, most_rows);
  const bool has_few_samples = p.batch < (plan.blocks ? kBlock : kManySamples);
  const bool is_large = plane > (plan.blocks ? kLargestPlaneOfBlocks : kLargestPlane);
  // A sink reads and writes several tensors row by row. Samples often lie a power of two apart, in the same sets of
  // the caches; neighbouring outputs do not.
  if (p.has_sink || has_few_samples || is_large) {
    plan.lanes = spread_lanes(last, plan.order[2]);
  } else {
    plan.lanes.slots = last.in;
  }
  const int64_t count = p.batch * plan.lanes.outputs;
  plan.rows = plan.blocks ? best_blocks(count) : best_rows(count, plan.tiles->most_rows);
  plan.row_tiles = ceil_divide(count, plan.rows);
}

// With few input channels, the channels of all taps along the last dimension, which are adjacent in memory, fill whole
// words, and a line is packed at once. Words of neighbouring windows must not overlap: 0 times a NaN is NaN.
bool can_merge_taps(const Problem& p, const GatherPlan& plan) {
  const Dimension& last = p.dimensions[2];
  const int64_t per_word = plan.elements_per_word();
  return !p.up && p.in_channels <= kFewChannels && p.groups == 1 && p.x.step[2] == p.in_channels &&
         last.dilation == 1 && !plan.lanes.across && p.prologue.scale == nullptr && p.prologue.activation == 0 &&
         (plan.blocks || (last.kernel * p.in_channels % per_word == 0 && last.stride * p.in_channels % per_word == 0));
}

void choose_words(const Problem& p, GatherPlan& plan) {
  const Dimension& last = p.dimensions[2];
  const int64_t per_word = plan.elements_per_word();
  plan.merges_taps = can_merge_taps(p, plan);
  plan.channels = plan.merges_taps ? last.kernel * p.in_channels : p.in_channels;
  plan.used_words = ceil_divide(plan.channels, per_word);
  plan.words = plan.blocks ? ceil_divide(plan.used_words, kBlock) * kBlock : plan.used_words;
  plan.slot_words = plan.words;
  if (plan.merges_taps) {
    plan.padded_line = ((last.out - 1) * last.stride + last.kernel) * p.in_channels;
    plan.lanes.slots = last.out;  // one window per output; blocks do not share words between windows
    OutputOrder& order = plan.order[2];
    order.taps = 1;
    for (int64_t i = 0; i < last.out; ++i) {
      const int64_t window = order.positions[i];
      order.inputs[i] = {{plan.blocks ? window : window * last.stride * p.in_channels / per_word, 0}};
    }
    if (!plan.blocks) plan.slot_words = 1;
  }
  plan.line_words = plan.merges_taps && !plan.blocks ? plan.padded_line / per_word : plan.words * plan.lanes.slots;
  plan.taps = plan.order[0].taps * plan.order[1].taps * plan.order[2].taps;
}

void choose_units(const Problem& p, GatherPlan& plan) {
  const OutputOrder& first = plan.order[0];
  const int64_t outputs = static_cast<int64_t>(first.positions.size()), tiles = plan.row_tiles * p.groups;
  plan.spans = std::min(outputs, std::max<int64_t>(1, ceil_divide(kUnits, tiles)));
  plan.panel_parts = std::min(plan.panels / p.panels_at_once,
                              std::max<int64_t>(1, ceil_divide(kUnits, tiles * plan.spans)));
  plan.units = tiles * plan.spans * plan.panel_parts;
  for (const InputTaps& inputs : first.inputs) {
    if (inputs.empty()) continue;
    const auto ends = std::minmax_element(inputs.begin(), inputs.end(),
                                          [](const InputTap& a, const InputTap& b) { return a.input < b.input; });
    plan.ring = std::max(plan.ring, ends.second->input - ends.first->input + 1);
  }
}

}  // namespace

GatherPlan make_gather_plan(const Problem& problem) {
  GatherPlan plan;
  choose_instructions(problem, plan);
  choose_order(problem, plan);
  choose_rows(problem, plan);
  choose_words(problem, plan);
  choose_units(problem, plan);
  return plan;
}

}  // namespace cpu
}  // namespace fastvgan
