// Which inputs reach which outputs of a convolution along each dimension, and the order in which outputs are visited.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "storage.h"

namespace fastvgan {
namespace cpu {

// One spatial dimension of a convolution that reads `in` values and writes `out`.
struct Line {
  int64_t in, out, kernel, stride, padding, dilation;
  bool up;
};

struct Reach {
  int64_t from, tap;
};
typedef std::vector<std::vector<Reach>> Reaches;  // of each output that is visited

inline int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_divide(-a, b); }

// The inputs that reach output o, each by its tap.
inline std::vector<Reach> reach_of(const Line& line, int64_t o) {
  std::vector<Reach> reach;
  for (int64_t tap = 0; tap < line.kernel; ++tap) {
    const int64_t to = line.up ? o + line.padding - tap * line.dilation : o * line.stride - line.padding +
                                                                               tap * line.dilation;
    if (line.up && to % line.stride != 0) continue;
    const int64_t from = line.up ? to / line.stride : to;
    if (from >= 0 && from < line.in) reach.push_back({from, tap});
  }
  return reach;
}

// How the outputs along one dimension are visited: output `position` is to be found at step * position + start + f,
// f < fold, f-th column group.
struct Visit {
  int64_t fold = 1;
  int64_t taps = 0;               // of the packed weights
  std::vector<int64_t> positions;  // in the order in which they are visited
  Reaches reaches;                // likewise
};

inline Visit visit_outputs(const Line& line, bool fold) {
  Visit visit;
  if (fold) {
    visit.fold = line.stride;
    visit.taps = ceil_divide(line.kernel, line.stride);
    for (int64_t block = 0; block * line.stride - line.padding < line.out; ++block) {
      std::vector<Reach> reach;
      for (int64_t m = 0; m < visit.taps; ++m) {
        if (block - m >= 0 && block - m < line.in) reach.push_back({block - m, m});
      }
      visit.positions.push_back(block * line.stride - line.padding);
      visit.reaches.push_back(std::move(reach));
    }
    return visit;
  }
  visit.taps = line.kernel;
  const int64_t phases = line.up ? std::min(line.stride, line.out) : 1;
  for (int64_t phase = 0; phase < phases; ++phase) {  // outputs that use the same taps after each other
    for (int64_t o = phase; o < line.out; o += phases) {
      visit.positions.push_back(o);
      visit.reaches.push_back(reach_of(line, o));
    }
  }
  return visit;
}

// What a tile's lanes are, along the last dimension: lane (n, q) is sample n's output q * step + position.
struct Lanes {
  bool across = false;      // whether neighbouring outputs are lanes
  int64_t outputs = 1;      // of a sample
  int64_t step = 0;
  int64_t slots = 0;        // packed words for each input row: its columns, or (across) one for each tap
  std::vector<int64_t> in_offset;  // across: input column of lane q and slot j is q * in_step + in_offset[j]
  int64_t in_step = 0;
};

// Turns the last dimension's visit into one of lanes.
inline Lanes lanes_across(const Line& line, Visit& visit) {
  Lanes lanes;
  lanes.across = true;
  lanes.slots = visit.taps;
  lanes.in_step = line.up ? 1 : line.stride;
  lanes.step = line.up ? line.stride : 1;
  const bool folded = visit.fold > 1;
  const int64_t phases = line.up && !folded ? std::min(line.stride, line.out) : 1;
  lanes.outputs = folded ? static_cast<int64_t>(visit.positions.size()) : ceil_divide(line.out, lanes.step);
  visit.positions.clear();
  for (int64_t phase = 0; phase < phases; ++phase) visit.positions.push_back(folded ? -line.padding : phase);
  visit.reaches.assign(phases, {});
  for (int64_t tap = 0; tap < visit.taps; ++tap) {
    // Output of the first input (up), or input of the first output.
    const int64_t first = folded ? tap * line.stride : tap * line.dilation - line.padding;
    const int64_t steps = floor_divide(first, line.stride);
    lanes.in_offset.push_back(line.up ? -steps : first);
    const int64_t phase = line.up ? first - steps * line.stride : 0;
    if (phase < phases) visit.reaches[phase].push_back({tap, tap});
  }
  return lanes;
}

}  // namespace cpu
}  // namespace fastvgan
