// conv_up and conv_down on the CPU, prepared once for inputs of one shape (conv_gather.cpp).
#pragma once

#include <memory>
#include <vector>

#include "../conv.h"
#include "conv_tiles.h"
#include "conv_visits.h"
#include "storage.h"

namespace fastvgan {
namespace cpu {

// `count` of a sample's outputs, from this one on along the last dimension.
struct Run {
  int64_t sample;
  Three output;
  int64_t count;
};

// What takes a convolution's results while they are in the cache, in place of y.
class TileSink {
 public:
  virtual ~TileSink() = default;
  // Those of one run of the next tiles' rows: the k-th panel's from `panel` on begin at tiles + k * kTileSize, a row is
  // a panel wide. Called by several threads.
  virtual void take(const float* tiles, int64_t panel, const Run&) const = 0;
};

struct Problem {
  bool up = false;
  int64_t batch = 0, groups = 1, in_channels = 0, out_channels = 0;  // channels of a group
  Line lines[3];
  Volume x, y, weight;
  int64_t weight_in = 0, weight_out = 0, weight_group = 0;  // elements from one channel, or group, to the next
  Stored storage, weight_storage;  // the weight may be float where the others are half precision
  Prologue prologue;
  Epilogue epilogue;
  const float* bias = nullptr;
  bool statistics = false;
  bool sunk = false;           // whether a sink takes the results, of a convolution with a stride of 1
  int64_t together = 1;        // panels that it takes at once, of which there is a multiple
  std::vector<int64_t> order;  // the channel of each column, or -1 for none; empty: as they are
};

// That of x to y by a weight, of shapes that fit each other and are not empty. y gives its shape alone where a sink
// takes the results.
Problem problem_of(bool up, const ConvShape& shape, const Tensor& x, const Tensor& weight, const Tensor& y);

class Gather;

class GatheredConv {
 public:
  explicit GatheredConv(Problem problem);
  ~GatheredConv();
  GatheredConv(const GatheredConv&) = delete;
  GatheredConv& operator=(const GatheredConv&) = delete;
  // To y, and where statistics are wanted, the mean and biased variance of each channel before the activation.
  void run(float* mean, float* var);
  // Of x, which has the first one's shape and dtype, to the sink.
  void run(const Volume& x, const TileSink& sink);

 private:
  Problem problem_;
  std::unique_ptr<Gather> gather_;
};

}  // namespace cpu
}  // namespace fastvgan
