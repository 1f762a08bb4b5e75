// The weights of a gathered convolution, packed in the order in which its tiles read them.
#pragma once

#include <cstdint>

#include "conv_gather_plan.h"
#include "conv_packing.h"

namespace fastvgan {
namespace cpu {

struct PackedWeights {
  Scratch<Word> words;  // [groups][panels][taps][words][panel_width]
  Scratch<float> bias;  // [groups][panels][panel_width]; empty without a bias
};

PackedWeights pack_weights(const Problem& problem, const GatherPlan& plan);

}  // namespace cpu
}  // namespace fastvgan
