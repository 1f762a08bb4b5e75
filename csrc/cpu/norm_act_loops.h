// The inner loops of norm_act on the CPU, as a table of functions.
//
// Two shapes of data. Columns: `rows` rows of `columns` values, `stride` apart, with parameters for each column.
// Runs: the same, but all of one channel. All read x from memory once: a block is to fit the second-level
// cache. Sums are kept in float32 over a few values and in float64 beyond that.
#pragma once

#include <stdint.h>

#include "element.h"

namespace fastvgan {

// Parameters of the normalisation, of each column or (one value each) of a run: z = (x - mean) * scale + shift,
// dx = scale * g - constant - (x - mean) * slope.
struct Parameters {
  const float* mean;
  const float* scale;
  const float* shift;
  const float* constant;
  const float* slope;
};

constexpr int64_t kTile = 512;  // columns a block has at most, unless they are a run

struct Block {
  int64_t rows;
  int64_t stride;
  int64_t columns;
};

struct NormActLoops {
  // mean and the sum of squared deviations from it
  void (*column_moments)(Element, const void* x, Block, double* mean, double* deviations);
  void (*run_sum)(Element, const void* x, Block, double* sum);  // adds the sum of x
  void (*run_deviations)(Element, const void* x, Block, float centre, double* sums);  // of x - centre and its square
  // streamed: past the caches; rows are then aligned to 64 bytes
  void (*apply)(Element, const void* x, void* y, Block, Parameters, bool run, int64_t activation, float leak,
                bool streamed);
  // adds the sums of g and of g * (x - mean), with g = dy * activation'(z)
  void (*column_gradient_sums)(Element, const void* dy, const void* x, Block, Parameters, int64_t activation,
                               float leak, double* g, double* gx);
  void (*run_gradient_sums)(Element, const void* dy, const void* x, Block, Parameters, int64_t activation, float leak,
                            double* sums);
  void (*gradient)(Element, const void* dy, const void* x, void* dx, Block, Parameters, bool run, bool training,
                   int64_t activation, float leak, bool streamed);

  // The same of z + residual. The sums also write g, rounded, to d_residual; the gradient is then that of `gradient`
  // with d_residual for dy and without an activation.
  void (*apply_residual)(Element, const void* x, const void* residual, void* y, Block, Parameters, bool run,
                         int64_t activation, float leak, bool streamed);
  void (*column_residual_sums)(Element, const void* dy, const void* x, const void* residual, void* d_residual, Block,
                               Parameters, int64_t activation, float leak, double* g, double* gx);
  void (*run_residual_sums)(Element, const void* dy, const void* x, const void* residual, void* d_residual, Block,
                            Parameters, int64_t activation, float leak, double* sums);
};

}  // namespace fastvgan
