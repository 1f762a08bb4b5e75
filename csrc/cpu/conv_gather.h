// conv_up and conv_down on the CPU, prepared once for inputs of one shape.
//
// Each output gathers the inputs that contribute to it. Neither inserted zeros nor padding are multiplied, and no
// partial result is added up in memory. The arithmetic is in conv_tiles.inc.
//
// A tile's rows ("lanes") are the same output of several samples or, for few samples, neighbouring outputs along the
// last dimension. Its columns are output channels; if a transposed convolution has few of them, neighbouring outputs
// that read the same inputs are further columns ("fold").
//
// The shape alone decides how the work is cut, not the number of threads, so that statistics do not depend on it.
#pragma once

#include <memory>
#include <vector>

#include "../conv.h"
#include "conv_order.h"
#include "conv_tiles.h"
#include "storage.h"

namespace fastvgan {
namespace cpu {

// `count` outputs of a sample, from `output` on along the last dimension.
struct Run {
  int64_t sample;
  Int3 output;
  int64_t count;
};

// Consumer of a convolution's results, called while they are in the cache; y is then not written.
class TileSink {
 public:
  virtual ~TileSink() = default;
  // Take one run of rows of the tiles of panels `panel`, `panel` + 1 and so on. The k-th panel's rows begin at
  // tiles + k * kTileSize and are one panel wide. Several threads call this.
  virtual void take(const float* tiles, int64_t panel, const Run&) const = 0;
};

struct Problem {
  bool up = false;                                                 // whether the convolution is transposed
  int64_t batch = 0, groups = 1, in_channels = 0, out_channels = 0;  // channels per group
  Dimension dimensions[3];
  Volume x, y, weight;
  int64_t weight_in = 0, weight_out = 0, weight_group = 0;  // elements from one channel, or group, to the next
  Stored storage, weight_storage;  // the weight may be float32 where x and y are half precision
  Prologue prologue;
  Epilogue epilogue;
  const float* bias = nullptr;
  bool needs_statistics = false;
  bool has_sink = false;           // whether a sink takes the results; the stride is then 1
  int64_t panels_at_once = 1;      // panels that the sink takes together; divides their number
  std::vector<int64_t> channel_of_column;  // -1: none; empty: column i is channel i
};

// Describe the convolution of x to y by a weight; they must not be empty. With a sink only y's shape is used.
// Throws if their shapes or dtypes do not fit each other.
Problem make_problem(bool up, const ConvShape& shape, const Tensor& x, const Tensor& weight, const Tensor& y);

struct GatherPlan;
struct PackedWeights;

class GatheredConv {
 public:
  explicit GatheredConv(Problem problem);
  ~GatheredConv();
  GatheredConv(const GatheredConv&) = delete;
  GatheredConv& operator=(const GatheredConv&) = delete;
  // Write y and, if the problem needs statistics, the mean and biased variance of each channel before the activation.
  void run(float* mean, float* var) const;
  // Pass the results for x, which has the shape and dtype of the problem's x, to the sink.
  void run(const Volume& x, const TileSink& sink) const;

 private:
  const Problem problem_;
  std::unique_ptr<const GatherPlan> plan_;
  std::unique_ptr<const PackedWeights> weights_;
};

}  // namespace cpu
}  // namespace fastvgan
