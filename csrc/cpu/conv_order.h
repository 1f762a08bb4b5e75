// The inputs that contribute to each output of a convolution along one dimension, and the order of the outputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "storage.h"

namespace fastvgan {
namespace cpu {

// One spatial dimension of a convolution that reads `in` values and writes `out`.
struct Dimension {
  int64_t in, out, kernel, stride, padding, dilation;
  bool up;  // whether the convolution is transposed
};

struct InputTap {
  int64_t input, tap;
};
using InputTaps = std::vector<InputTap>;  // all that contribute to one output

inline int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_divide(-a, b); }

inline InputTaps find_inputs(const Dimension& dimension, int64_t output) {
  InputTaps found;
  for (int64_t tap = 0; tap < dimension.kernel; ++tap) {
    const int64_t dilated = tap * dimension.dilation;
    const int64_t at = dimension.up ? output + dimension.padding - dilated
                                    : output * dimension.stride - dimension.padding + dilated;
    if (dimension.up && at % dimension.stride != 0) continue;
    const int64_t input = dimension.up ? at / dimension.stride : at;
    if (input >= 0 && input < dimension.in) found.push_back({input, tap});
  }
  return found;
}

// The order in which the outputs along one dimension are computed. With a fold, neighbouring outputs share a tile:
// column group f < fold of positions[i] is output positions[i] + f.
struct OutputOrder {
  int64_t fold = 1;
  int64_t taps = 0;                // taps of the packed weights
  std::vector<int64_t> positions;  // first output of each step
  std::vector<InputTaps> inputs;   // inputs of each step
};

// `stride` neighbouring outputs of a transposed convolution, which read the same inputs, at a time.
inline OutputOrder fold_outputs(const Dimension& dimension) {
  OutputOrder order;
  order.fold = dimension.stride;
  order.taps = ceil_divide(dimension.kernel, dimension.stride);
  for (int64_t block = 0; block * dimension.stride - dimension.padding < dimension.out; ++block) {
    InputTaps inputs;
    for (int64_t tap = 0; tap < order.taps; ++tap) {
      const int64_t input = block - tap;
      if (input >= 0 && input < dimension.in) inputs.push_back({input, tap});
    }
    order.positions.push_back(block * dimension.stride - dimension.padding);
    order.inputs.push_back(std::move(inputs));
  }
  return order;
}

// One output at a time; those that use the same taps follow each other.
inline OutputOrder order_outputs(const Dimension& dimension) {
  OutputOrder order;
  order.taps = dimension.kernel;
  const int64_t phases = dimension.up ? std::min(dimension.stride, dimension.out) : 1;
  for (int64_t phase = 0; phase < phases; ++phase) {
    for (int64_t output = phase; output < dimension.out; output += phases) {
      order.positions.push_back(output);
      order.inputs.push_back(find_inputs(dimension, output));
    }
  }
  return order;
}

// The rows of tiles. Row number n * outputs + q holds, at a step of the last dimension's order, output
// q * step + position of sample n.
struct Lanes {
  bool across = false;  // whether neighbouring outputs of a sample are rows
  int64_t outputs = 1;  // rows per sample
  int64_t step = 0;
  int64_t slots = 0;    // packed groups of words per row of inputs: one per column or, across, one per tap
  std::vector<int64_t> in_offset;  // across: row q reads for slot j input column q * in_step + in_offset[j]
  int64_t in_step = 0;
};

// Make neighbouring outputs along the last dimension rows of tiles; `order` then has one step per phase.
inline Lanes spread_lanes(const Dimension& dimension, OutputOrder& order) {
  Lanes lanes;
  lanes.across = true;
  lanes.slots = order.taps;
  lanes.in_step = dimension.up ? 1 : dimension.stride;
  lanes.step = dimension.up ? dimension.stride : 1;
  const bool folded = order.fold > 1;
  const int64_t phases = dimension.up && !folded ? std::min(dimension.stride, dimension.out) : 1;
  lanes.outputs = folded ? static_cast<int64_t>(order.positions.size()) : ceil_divide(dimension.out, lanes.step);
  order.positions.clear();
  for (int64_t phase = 0; phase < phases; ++phase) order.positions.push_back(folded ? -dimension.padding : phase);
  order.inputs.assign(phases, {});
  for (int64_t tap = 0; tap < order.taps; ++tap) {
    // The output that the first input reaches (up), or the input that the first output reads.
    const int64_t first = folded ? tap * dimension.stride : tap * dimension.dilation - dimension.padding;
    const int64_t steps = floor_divide(first, dimension.stride);
    lanes.in_offset.push_back(dimension.up ? -steps : first);
    const int64_t phase = dimension.up ? first - steps * dimension.stride : 0;
    if (phase < phases) order.inputs[phase].push_back({tap, tap});
  }
  return lanes;
}

}  // namespace cpu
}  // namespace fastvgan
