// The inner loops of the convolutional LSTM on the CPU, as a table of functions.
#pragma once

#include <stdint.h>

#include "element.h"

namespace fastvgan {

// Neighbouring positions: the channels of the first one, and the bytes from one position to the next.
struct Positions {
  void* data;
  int64_t step;
};

struct UpdatePositions {
  Positions gates, c, h_next, c_next;
};

struct UpdateBackwardPositions {
  Positions d_output, gates, c, c_next, d_c, d_pre;  // d_output may be null; d_c is float
};

struct ConvLstmLoops {
  // Overwrite the inputs' contribution to the gates i, f, g, o by the gates: i, f, o = sigmoid(inputs + recurrent),
  // g = tanh(inputs + recurrent). Write c_next = f * c + i * g and h_next = o * tanh(c_next). All for one vector of
  // channels from `first` on; `recurrent` holds one vector per gate, in tiles kTileSize apart. `cell` is the type of c
  // and c_next.
  void (*update)(Element, Element cell, UpdatePositions, const float* recurrent, int64_t count, int64_t channels,
                 int64_t first);
  // Write d_pre, and overwrite d_c by its gradient of the step before, for `columns` channels from `first` on. The rows
  // of d_h, which may be null, are a multiple of a vector long.
  void (*update_backward)(Element, Element cell, UpdateBackwardPositions, const float* d_h, int64_t d_h_step,
                          int64_t count, int64_t channels, int64_t first, int64_t columns);
};

}  // namespace fastvgan
