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
  Positions inputs, recurrent, c, h_next, c_next, gates;
};

struct UpdateBackwardPositions {
  Positions d_output, d_h, gates, c, c_next, d_c, d_pre;  // the first two may be null; d_c is float
};

struct ConvLstmLoops {
  // i, f, o = sigmoid(inputs + recurrent), g = tanh(...), in the order i, f, g, o; c_next = f * c + i * g;
  // h_next = o * tanh(c_next). `cell` is the type of c and c_next.
  void (*update)(Element, Element cell, UpdatePositions, int64_t count, int64_t channels);
  // d_pre from the gates, and d_c of the step before in place
  void (*update_backward)(Element, Element cell, UpdateBackwardPositions, int64_t count, int64_t channels);
};

}  // namespace fastvgan
