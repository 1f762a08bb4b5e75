#include "conv_gather_weights.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

namespace fastvgan {
namespace cpu {
namespace {

// Words [first, last) of each tap.
struct WordRange {
  int64_t first, last;
};

// The columns of a panel: each one's first element in the weight, and its taps' offsets (null: an empty column).
struct PanelColumns {
  int64_t first[kWidestPanel];
  const int64_t* tap_offsets[kWidestPanel];
};

class WeightPacker {
 public:
  WeightPacker(const Problem& problem, const GatherPlan& plan, Word* words)
      : p_(problem), plan_(plan), tiles_(*plan.tiles), words_(words) {
    for (int64_t f = 0; f < plan.fold; ++f) tap_offsets_.push_back(find_tap_offsets(f));
  }

  void run() const {
    const int64_t unit = plan_.blocks ? kBlock : 1, pieces = ceil_divide(plan_.used_words, unit);
    const int64_t parts = std::min<int64_t>(pieces, 8), panels = plan_.panels;
    torch::stable::parallel_for(0, p_.groups * panels * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i % parts, panel = i / parts % panels, group = i / parts / panels;
        const int64_t last = std::min(plan_.used_words, (part + 1) * pieces / parts * unit);
        pack_panel(group, panel, {part * pieces / parts * unit, last});
        if (part == 0) clear_unused_words(group, panel);
      }
    });
  }

 private:
  const Problem& p_;
  const GatherPlan& plan_;
  const Tiles& tiles_;
  Word* words_;
  std::vector<std::vector<int64_t>> tap_offsets_;  // [fold][taps], elements; -1: the kernel has no such tap

  Word* panel_at(int64_t group, int64_t panel) const {
    return words_ + (group * plan_.panels + panel) * plan_.panel_size();
  }

  // Offsets in the weight of the taps of column group f.
  std::vector<int64_t> find_tap_offsets(int64_t f) const {
    std::vector<int64_t> offsets;
    const OutputOrder* order = plan_.order;
    Int3 phase;
    for (int d = 2; d >= 0; --d) {
      phase[d] = f % order[d].fold;
      f /= order[d].fold;
    }
    for (int64_t t0 = 0; t0 < order[0].taps; ++t0) {
      for (int64_t t1 = 0; t1 < order[1].taps; ++t1) {
        for (int64_t t2 = 0; t2 < order[2].taps; ++t2) offsets.push_back(tap_offset({t0, t1, t2}, phase));
      }
    }
    return offsets;
  }

  int64_t tap_offset(const Int3& packed_tap, const Int3& phase) const {
    int64_t offset = 0;
    for (int d = 0; d < 3; ++d) {
      const int64_t tap = packed_tap[d] * plan_.order[d].fold + phase[d];
      if (tap >= p_.dimensions[d].kernel) return -1;
      offset += tap * p_.weight.step[d];
    }
    return offset;
  }

  // Elements from a tap's first input channel to this one.
  int64_t channel_offset(int64_t channel) const {
    if (!plan_.merges_taps) return channel * p_.weight_in;
    return channel / p_.in_channels * p_.weight.step[2] + channel % p_.in_channels * p_.weight_in;
  }

  const void* weight_at(int64_t offset) const { return p_.weight_storage.at(p_.weight.data, offset); }

  // Set the words that fill up a panel's last blocks to 0.
  void clear_unused_words(int64_t group, int64_t panel) const {
    Word* to = panel_at(group, panel);
    const int64_t tap_size = plan_.words * plan_.panel_width, used = plan_.used_words * plan_.panel_width;
    for (int64_t tap = 0; tap < plan_.taps; ++tap, to += tap_size) std::fill(to + used, to + tap_size, 0);
  }

  void pack_panel(int64_t group, int64_t panel, WordRange range) const {
    const bool adjacent_columns = p_.weight_out == 1 && plan_.fold == 1 && p_.channel_of_column.empty();
    adjacent_columns ? pack_rows(group, panel, range) : pack_columns(group, panel, range);
  }

  // For a weight whose output channels are adjacent in memory.
  void pack_rows(int64_t group, int64_t panel, WordRange range) const {
    const int64_t width = plan_.panel_width, count = plan_.columns_in(panel), per_word = plan_.elements_per_word();
    Word* to = panel_at(group, panel);
    for (int64_t tap = 0; tap < plan_.taps; ++tap) {
      const int64_t at = group * p_.weight_group + tap_offsets_[0][tap] + panel * width;
      for (int64_t word = range.first; word < range.last; ++word) {
        Word* row = to + (tap * plan_.words + word) * width;
        pack_word(at, word * per_word, count, row);
        std::fill(row + count, row + width, 0);
      }
    }
  }

  // For a weight whose input channels, or taps, are adjacent in memory.
  void pack_columns(int64_t group, int64_t panel, WordRange range) const {
    const int64_t width = plan_.panel_width, count = plan_.columns_in(panel), per_word = plan_.elements_per_word();
    const PanelColumns columns = find_columns(group, panel);
    Word* to = panel_at(group, panel);
    for (int64_t tap = 0; tap < plan_.taps; ++tap, to += plan_.words * width) {
      int64_t at[kWidestPanel];  // offset of each column's first input channel; -1: none
      std::fill(at + count, at + width, -1);
      for (int64_t c = 0; c < count; ++c) {
        const int64_t offset = columns.tap_offsets[c] == nullptr ? -1 : columns.tap_offsets[c][tap];
        at[c] = offset < 0 ? -1 : columns.first[c] + offset;
      }
      if (p_.weight_in == 1 && !plan_.merges_taps) {
        pack_adjacent_channels(at, range, to);
        continue;
      }
      for (int64_t word = range.first; word < range.last; ++word) {
        Word* row = to + word * width;
        std::fill(row, row + width, 0);
        for (int64_t c = 0; c < count; ++c) {
          if (at[c] >= 0) pack_word(at[c], word * per_word, 1, row + c);
        }
      }
    }
  }

  PanelColumns find_columns(int64_t group, int64_t panel) const {
    const std::vector<int64_t>& channels = p_.channel_of_column;
    const int64_t count = plan_.columns_in(panel);
    PanelColumns columns{};
    for (int64_t c = 0; c < count; ++c) {
      const int64_t column = panel * plan_.panel_width + c;
      const int64_t channel = channels.empty() ? column % p_.out_channels : channels[column];
      if (channel < 0) continue;
      columns.first[c] = group * p_.weight_group + channel * p_.weight_out;
      columns.tap_offsets[c] = tap_offsets_[channels.empty() ? column / p_.out_channels : 0].data();
    }
    return columns;
  }

  void pack_adjacent_channels(const int64_t* at, WordRange range, Word* to) const {
    constexpr int64_t kRows = 4;  // divides every panel's width; columns beyond the last channel are null rows
    const int64_t width = plan_.panel_width, per_word = plan_.elements_per_word();
    const Element element = p_.weight_storage.element;
    const int64_t count = std::min(range.last * per_word, plan_.channels) - range.first * per_word;
    const int64_t whole = plan_.blocks ? std::min(count / per_word, range.last - range.first) / kBlock * kBlock : 0;
    const void* from[kWidestPanel];
    find_rows(at, range.first * per_word, from);
    for (int64_t c = 0; c < width && whole > 0; c += kBlock) {
      for (int64_t k = 0; k < whole; k += kBlock) {
        plan_.blocks->transpose_rows(element, from + c, k, to + (range.first + k) * width + c, width);
      }
    }
    if (whole * per_word >= count) return;
    const int64_t rest = range.first + whole;
    find_rows(at, rest * per_word, from);
    for (int64_t c = 0; c < width; c += kRows) {
      tiles_.pack_rows(element, plan_.has_pairs, from + c, kRows, count - whole * per_word, Prologue{},
                       to + rest * width + c, width);
    }
  }

  void find_rows(const int64_t* at, int64_t channel, const void** rows) const {
    for (int64_t c = 0; c < plan_.panel_width; ++c) rows[c] = at[c] < 0 ? nullptr : weight_at(at[c] + channel);
  }

  // Pack one word of `count` adjacent columns, from this input channel on.
  void pack_word(int64_t at, int64_t channel, int64_t count, Word* to) const {
    const bool has_second = plan_.has_pairs && channel + 1 < plan_.channels;
    const void* second = has_second ? weight_at(at + channel_offset(channel + 1)) : nullptr;
    tiles_.interleave(p_.weight_storage.element, plan_.has_pairs, weight_at(at + channel_offset(channel)), second,
                      count, to);
  }
};

// [groups][panels][panel_width]
Scratch<float> expand_bias(const Problem& p, const GatherPlan& plan) {
  if (p.bias == nullptr) return {};
  const int64_t padded = plan.panels * plan.panel_width;
  Scratch<float> bias(p.groups * padded);
  for (int64_t i = 0; i < p.groups * padded; ++i) {
    const int64_t group = i / padded, column = i % padded;
    bias[i] = column < plan.columns ? p.bias[group * p.out_channels + column % p.out_channels] : 0;
  }
  return bias;
}

}  // namespace

PackedWeights pack_weights(const Problem& problem, const GatherPlan& plan) {
  PackedWeights packed;
  packed.words = Scratch<Word>(problem.groups * plan.panels * plan.panel_size());
  WeightPacker(problem, plan, packed.words.get()).run();
  packed.bias = expand_bias(problem, plan);
  return packed;
}

}  // namespace cpu
}  // namespace fastvgan
