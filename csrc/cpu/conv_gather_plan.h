// How a gathered convolution is cut into tiles and units of work, computed once per call or shape.
#pragma once

#include <algorithm>
#include <cstdint>

#include "conv_gather.h"
#include "conv_order.h"
#include "conv_tiles.h"

namespace fastvgan {
namespace cpu {

struct GatherPlan {
  const Tiles* tiles = nullptr;
  const BlockTiles* blocks = nullptr;  // products of whole blocks; null: of single words
  bool has_pairs = false;              // whether a word holds two bfloat16

  // A tile has `rows` rows and as many columns as a panel of weights.
  OutputOrder order[3];
  Lanes lanes;
  int64_t rows = 0, row_tiles = 0;  // rows per tile; tiles that hold all rows
  int64_t panel_width = 0, fold = 1, columns = 0, panels = 0;

  // The product of one tap: `words` words per row, of which `used_words` hold `channels` elements, the others zeros.
  bool merges_taps = false;  // whether taps along the last dimension count as channels
  int64_t taps = 0, channels = 0, used_words = 0, words = 0;

  // Packed inputs, in words per row of a tile: from one input column, or line of columns, to the next.
  int64_t slot_words = 0, line_words = 0;
  int64_t padded_line = 0;  // elements of a line with its padding, if taps are merged
  int64_t ring = 1;         // planes of inputs that outputs of one plane read

  // Units of work: groups × row tiles × spans (of the first dimension's outputs) × parts (of the panels).
  int64_t spans = 1, panel_parts = 1, units = 1;
  int64_t panels_at_once = 1;

  int64_t elements_per_word() const { return has_pairs ? 2 : 1; }
  int64_t panel_size() const { return taps * words * panel_width; }  // words
  int64_t columns_in(int64_t panel) const { return std::min(panel_width, columns - panel * panel_width); }

  int64_t part_of(int64_t unit) const { return unit % panel_parts; }
  int64_t span_of(int64_t unit) const { return unit / panel_parts % spans; }
  int64_t row_tile_of(int64_t unit) const { return unit / panel_parts / spans % row_tiles; }
  int64_t group_of(int64_t unit) const { return unit / (panel_parts * spans * row_tiles); }
  int64_t panel_begin(int64_t part) const { return part * (panels / panels_at_once) / panel_parts * panels_at_once; }
  int64_t span_begin(int64_t span) const { return span * static_cast<int64_t>(order[0].positions.size()) / spans; }
};

GatherPlan make_gather_plan(const Problem& problem);

}  // namespace cpu
}  // namespace fastvgan
