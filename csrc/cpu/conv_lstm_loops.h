// The inner loops of the convolutional LSTM on the CPU, as a table of functions.
#pragma once

#include <stdint.h>

#include "element.h"

namespace fastvgan {

// Positions side by side: the first one's channels, and the bytes from one position to the next.
struct Positions {
  void* data;
  int64_t step;
};

struct UpdatePositions {
  Positions gates, c, h_next, c_next;
};

struct UpdateBackwardPositions {
  Positions d_output, gates, c, c_next, d_c, d_pre;  // the first may be null; d_c is float
};

struct ConvLstmLoops {
  // In place of the inputs' half of the gates, i, f, o = sigmoid(inputs + recurrent), g = tanh(...), in the order i, f,
  // g, o; c_next = f * c + i * g; h_next = o * tanh(c_next). Of a vector of channels from `first` on, of which tiles
  // kTileSize apart hold the recurrent half, a vector for each gate. `cell` is the type of c and c_next.
  void (*update)(Element, Element cell, UpdatePositions, const float* recurrent, int64_t count, int64_t channels,
                 int64_t first);
  // d_pre from the gates, and d_c of the step before in place; of `columns` channels from `first` on, of which d_h is
  // null or has rows a multiple of a vector long.
  void (*update_backward)(Element, Element cell, UpdateBackwardPositions, const float* d_h, int64_t d_h_step,
                          int64_t count, int64_t channels, int64_t first, int64_t columns);
};

}  // namespace fastvgan
