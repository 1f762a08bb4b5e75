// The inner loops of norm_act on the CPU, as a table of functions.
//
// A block of data has one of two forms. Columns: `rows` rows of `columns` values, `stride` apart, with parameters per
// column. Runs: the same, but all values belong to one channel. Every function reads x from memory once, because a
// block fits into the second-level cache. Sums are float32 over a few values and float64 over more.
#pragma once

#include <stdint.h>

#include "element.h"

namespace fastvgan {

// Parameters of the normalisation: z = (x - mean) * scale + shift, dx = scale * g - constant - (x - mean) * slope. One
// value per column, or one in all for a run.
struct Parameters {
  const float* mean;
  const float* scale;
  const float* shift;
  const float* constant;
  const float* slope;
};

constexpr int64_t kTile = 512;  // most columns in a block, unless they are a run

struct Block {
  int64_t rows;
  int64_t stride;
  int64_t columns;
};

struct NormActLoops {
  // Set the mean and the sum of squared deviations from it, per column.
  void (*column_moments)(Element, const void* x, Block, double* mean, double* deviations);
  void (*run_sum)(Element, const void* x, Block, double* sum);  // add the sum of x
  // Add the sums of x - centre and of its square.
  void (*run_deviations)(Element, const void* x, Block, float centre, double* sums);
  // streamed: store past the caches; rows are then aligned to 64 bytes.
  void (*apply)(Element, const void* x, void* y, Block, Parameters, bool run, int64_t activation, float leak,
                bool streamed);
  // Add the sums of g and of g * (x - mean), with g = dy * activation'(z).
  void (*column_gradient_sums)(Element, const void* dy, const void* x, Block, Parameters, int64_t activation,
                               float leak, double* g, double* gx);
  void (*run_gradient_sums)(Element, const void* dy, const void* x, Block, Parameters, int64_t activation, float leak,
                            double* sums);
  void (*gradient)(Element, const void* dy, const void* x, void* dx, Block, Parameters, bool run, bool training,
                   int64_t activation, float leak, bool streamed);

  // The same for activation(z + residual). The sums also write g, rounded, to d_residual; dx is then computed by
  // `gradient` with d_residual as dy and without an activation.
  void (*apply_residual)(Element, const void* x, const void* residual, void* y, Block, Parameters, bool run,
                         int64_t activation, float leak, bool streamed);
  void (*column_residual_sums)(Element, const void* dy, const void* x, const void* residual, void* d_residual, Block,
                               Parameters, int64_t activation, float leak, double* g, double* gx);
  void (*run_residual_sums)(Element, const void* dy, const void* x, const void* residual, void* d_residual, Block,
                            Parameters, int64_t activation, float leak, double* sums);
};

}  // namespace fastvgan
