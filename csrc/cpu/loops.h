// The inner loops of all operations on the CPU, compiled once for each instruction set.
#pragma once

#include "conv_lstm_loops.h"
#include "conv_tiles.h"
#include "norm_act_loops.h"

namespace fastvgan {

struct Loops {
  const char* name;  // of the instruction set
  NormActLoops norm_act;
  Tiles conv;
  ConvLstmLoops conv_lstm;
};

// Null if the compiler could not build for that instruction set.
const Loops* portable_loops();
const Loops* avx2_loops();
const Loops* avx512_loops();
const Loops* avx512bf16_loops();
const Loops* amx_loops();

// The loops for the instruction set in use.
const Loops& loops();

}  // namespace fastvgan
