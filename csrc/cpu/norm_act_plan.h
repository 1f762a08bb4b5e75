// How norm_act and group_norm_act cut a tensor into pieces, and the steps that both run on the pieces.
//
// The cut depends on the shape alone, not on the number of threads, and partial results are added up in the order of
// the pieces. The same input therefore yields the same bits for any number of threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "../norm_act.h"
#include "loops.h"
#include "storage.h"

namespace fastvgan {
namespace cpu {

constexpr int64_t kPiece = 64 * 1024;      // values per piece; many, so that the fixed cost of a piece is small
constexpr int64_t kCacheLine = 64;         // bytes; no vector is longer
constexpr int64_t kSerial = 32 * 1024;     // fewest values for which a second thread saves time
// Fewest bytes read and written by a pass whose result is stored past the caches: most of a server's last-level cache.
// Measured with a cache of 32 MB: streaming was 7% slower for 16 MB and 17% faster for 24 MB.
constexpr int64_t kStreamed = 24 << 20;
constexpr int64_t kShortRun = 64;          // fewest values in a run; shorter runs are handled as columns
constexpr int64_t kMinimumRows = 64;       // fewest rows per piece, so that there are few partial results

// The cut of a tensor, either into runs (consecutive values of one channel) or into columns. A row of columns is a
// multiple of (channels * inner) values, so that few channels fill whole vectors too; the values after the last whole
// row are a block of one shorter row. A block yields one partial result per column (runs: per channel), `width` in all.
struct Plan {
  int64_t channels, inner;
  bool runs;
  int64_t width = 0, blocks = 0;
  int64_t rows = 0, block_rows = 0, tiles = 1, rest = 0;  // columns
  int64_t batch = 0, group = 1, parts = 1, part = 0;  // runs

  explicit Plan(const Layout& layout) : channels(layout.channels), inner(layout.inner) {
    runs = inner >= kShortRun;
    if (runs) {
      batch = layout.numel / (channels * inner);
      parts = ceil_divide(inner, kPiece);
      part = ceil_divide(inner, parts);
      group = std::max<int64_t>(1, 512 / inner);  // samples per block; few, because they are far apart in memory
      width = channels;
      blocks = ceil_divide(batch, group) * parts;
      return;
    }
    const int64_t base = channels * inner;
    int64_t fold = 1;
    while (fold < 64 && (base * fold < 64 || (base * fold) % 16 != 0) && base * fold < kTile) fold *= 2;
    width = base * fold;
    rows = layout.numel / width;
    rest = layout.numel % width;
    tiles = ceil_divide(width, kTile);
    block_rows = std::max(kMinimumRows, kPiece / std::min(width, kTile));
    blocks = ceil_divide(rows, block_rows) + (rest > 0 ? 1 : 0);
  }

  bool is_rest(int64_t block) const { return !runs && rest > 0 && block == blocks - 1; }
  int64_t width_of(int64_t block) const { return is_rest(block) ? rest : width; }
  // Call visit(column, channel) for each column, in order.
  template <typename Visit>
  void for_columns(const Visit& visit) const {
    const int64_t repeated = runs ? 1 : inner;
    for (int64_t j = 0; j < width;) {
      for (int64_t c = 0; c < channels && j < width; ++c) {
        for (int64_t end = std::min(width, j + repeated); j < end; ++j) visit(j, c);
      }
    }
  }
  bool columns_are_channels() const { return width == channels; }

  // Values of a column in a block.
  int64_t count(int64_t block) const {
    if (is_rest(block)) return 1;
    if (!runs) return std::min(block_rows, rows - block * block_rows);
    return runs_in(block) * length_of(block);
  }
  // A division costs as much as about ten vectors, and most tensors have one part per run.
  int64_t sample_of(int64_t block) const { return parts == 1 ? block : block / parts; }
  int64_t start_of(int64_t block) const { return parts == 1 ? 0 : block % parts * part; }
  int64_t runs_in(int64_t block) const { return std::min(group, batch - sample_of(block) * group); }
  int64_t length_of(int64_t block) const { return std::min(part, inner - start_of(block)); }

  // Call visit(block, column, offset, Block) for each piece of columns, or of runs, whose rows are the runs.
  template <typename Visit>
  void for_pieces(const Visit& visit) const {
    const int64_t per_block = runs ? channels : tiles;
    const int64_t pieces = blocks * per_block;
    const int64_t piece = runs ? group * part : std::min(block_rows, rows + 1) * std::min(width, kTile);
    torch::stable::parallel_for(0, pieces, std::max<int64_t>(1, kSerial / piece), [&](int64_t begin, int64_t end) {
      int64_t block = begin / per_block, at = begin % per_block;
      for (int64_t i = begin; i < end; ++i) {
        visit_piece(block, at, visit);
        if (++at == per_block) at = 0, ++block;
      }
    });
  }

  // The same from last to first: the last pieces of the previous pass are still in the cache.
  template <typename Visit>
  void for_pieces_reversed(const Visit& visit) const {
    const int64_t per_block = runs ? channels : tiles;
    const int64_t pieces = blocks * per_block;
    const int64_t piece = runs ? group * part : std::min(block_rows, rows + 1) * std::min(width, kTile);
    torch::stable::parallel_for(0, pieces, std::max<int64_t>(1, kSerial / piece), [&](int64_t begin, int64_t end) {
      int64_t block = (end - 1) / per_block, at = (end - 1) % per_block;
      for (int64_t i = end - 1; i >= begin; --i) {
        visit_piece(block, at, visit);
        if (--at < 0) at = per_block - 1, --block;
      }
    });
  }

  template <typename Visit>
  void visit_piece(int64_t block, int64_t i, const Visit& visit) const {
    if (runs) {
      const int64_t offset = (sample_of(block) * group * channels + i) * inner + start_of(block);
      visit(block, i, offset, Block{runs_in(block), channels * inner, length_of(block)});
      return;
    }
    const int64_t column = i * kTile, columns = std::min(kTile, width_of(block) - column);
    if (columns <= 0) return;
    const int64_t row = is_rest(block) ? rows : block * block_rows;
    visit(block, column, row * width + column, Block{count(block), width, columns});
  }
};

// Whether the last pass, which reads and writes `tensors` tensors of x's size, stores its result past the caches. That
// saves reading the overwritten memory and keeps the inputs in the cache that an earlier pass read.
inline bool streams(const Plan& plan, const Layout& layout, Stored data, int64_t tensors, const void* to) {
  if (tensors * layout.numel * data.size < kStreamed) return false;
  const auto aligned = [&](int64_t values) { return values * data.size % kCacheLine == 0; };
  const bool rows = plan.runs ? aligned(plan.inner) && (plan.parts == 1 || aligned(plan.part)) : aligned(plan.width);
  return rows && reinterpret_cast<uintptr_t>(to) % kCacheLine == 0;
}

// As for columns, one pass about a centre near the mean: the mean of at least 1/16 of the first run.
inline void run_moments(Stored data, const void* x, Block block, double* mean, double* deviations) {
  const NormActLoops& loops = fastvgan::loops().norm_act;
  const int64_t first = std::min(block.columns, std::max<int64_t>(256, block.columns / 16));
  double total = 0, sums[2] = {0, 0};
  loops.run_sum(data.element, x, Block{1, 0, first}, &total);
  const float centre = static_cast<float>(total / first);
  loops.run_deviations(data.element, x, block, centre, sums);
  const double count = static_cast<double>(block.rows) * block.columns;
  const double rest = sums[0] / count;
  *mean = centre + rest;
  *deviations = sums[1] - count * rest * rest;
}

// Add up partial results, in the order of the blocks, into one value per channel.
template <typename Term>
std::vector<double> sum_blocks(const Plan& plan, const Term& term) {
  std::vector<double> columns(plan.width, 0.0);
  for (int64_t b = 0; b < plan.blocks; ++b) {
    const int64_t width = plan.width_of(b);
    for (int64_t j = 0; j < width; ++j) columns[j] += term(b, j);
  }
  if (plan.columns_are_channels()) return columns;
  std::vector<double> channels(plan.channels, 0.0);
  plan.for_columns([&](int64_t j, int64_t c) { channels[c] += columns[j]; });
  return channels;
}

// Repeat one value per channel for each column.
template <typename T>
std::vector<T> expand(const Plan& plan, std::vector<T> channels) {
  if (plan.columns_are_channels()) return channels;
  std::vector<T> columns(plan.width);
  plan.for_columns([&](int64_t j, int64_t c) { columns[j] = channels[c]; });
  return columns;
}

// Mean and biased variance of each channel. Each block's moments are computed about its own mean, then merged.
// Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
template <typename T>
void batch_moments(const Plan& plan, const Layout& layout, Stored data, const void* x, T* mean, T* var) {
  std::vector<double> means(plan.blocks * plan.width), deviations(plan.blocks * plan.width);
  plan.for_pieces([&](int64_t block, int64_t column, int64_t offset, Block piece) {
    double* to = &means[block * plan.width + column];
    double* squares = &deviations[block * plan.width + column];
    const void* from = data.at(x, offset);
    if (plan.runs) return run_moments(data, from, piece, to, squares);
    loops().norm_act.column_moments(data.element, from, piece, to, squares);
  });
  const double count = static_cast<double>(layout.per_channel());
  auto centre = sum_blocks(plan, [&](int64_t b, int64_t j) { return plan.count(b) * means[b * plan.width + j]; });
  for (double& value : centre) value /= count;
  const auto about = expand(plan, centre);
  const auto total = sum_blocks(plan, [&](int64_t b, int64_t j) {
    const double d = means[b * plan.width + j] - about[j];
    return deviations[b * plan.width + j] + plan.count(b) * d * d;
  });
  for (int64_t c = 0; c < layout.channels; ++c) {
    mean[c] = static_cast<T>(centre[c]);
    var[c] = static_cast<T>(std::max(total[c] / count, 0.0));  // with the arguments in this order a NaN stays a NaN
  }
}

inline const float* values(const OptionalTensor& parameter) {
  return parameter.has_value() ? static_cast<const float*>(parameter->const_data_ptr()) : nullptr;
}

// The parameters of the normalisation, one value per column.
struct Affine {
  std::vector<float> mean, scale, shift, constant, slope;

  Affine(const Plan& plan, const float* channel_mean, const float* var, const float* weight, const float* bias,
         double eps) {
    std::vector<float> scales(plan.channels), shifts(plan.channels);
    for (int64_t c = 0; c < plan.channels; ++c) {
      scales[c] = static_cast<float>((weight ? weight[c] : 1.0) / std::sqrt(var[c] + eps));
      shifts[c] = bias ? bias[c] : 0.0f;
    }
    mean = expand(plan, std::vector<float>(channel_mean, channel_mean + plan.channels));
    scale = expand(plan, std::move(scales));
    shift = expand(plan, std::move(shifts));
  }

  // From one value per channel.
  Affine(const Plan& plan, std::vector<float> means, std::vector<float> scales, std::vector<float> shifts)
      : mean(expand(plan, std::move(means))),
        scale(expand(plan, std::move(scales))),
        shift(expand(plan, std::move(shifts))) {}

  Parameters at(int64_t column) const {
    return {&mean[column], &scale[column], &shift[column], constant.empty() ? nullptr : &constant[column],
            slope.empty() ? nullptr : &slope[column]};
  }
};

// A residual that is added before the activation, and its gradient; both null without a residual.
struct Residual {
  const void* values = nullptr;
  void* gradient = nullptr;
};

// Sums of g and g * (x - mean) for each channel; with a residual, its gradient g is written too.
inline void gradient_sums(const Plan& plan, Stored data, const void* dy, const void* x, Residual residual,
                          const Affine& affine, int64_t activation, float leak, std::vector<double>& g,
                          std::vector<double>& gx) {
  std::vector<double> sums(plan.blocks * plan.width, 0.0), products(plan.blocks * plan.width, 0.0);
  const NormActLoops& loops = fastvgan::loops().norm_act;
  plan.for_pieces([&](int64_t block, int64_t column, int64_t offset, Block piece) {
    const int64_t to = block * plan.width + column;
    const void *incoming = data.at(dy, offset), *from = data.at(x, offset);
    const Parameters p = affine.at(column);
    if (!plan.runs && residual.values) {
      loops.column_residual_sums(data.element, incoming, from, data.at(residual.values, offset),
                                 data.at(residual.gradient, offset), piece, p, activation, leak, &sums[to],
                                 &products[to]);
      return;
    }
    if (!plan.runs) {
      loops.column_gradient_sums(data.element, incoming, from, piece, p, activation, leak, &sums[to], &products[to]);
      return;
    }
    double both[2] = {0, 0};
    if (residual.values) {
      loops.run_residual_sums(data.element, incoming, from, data.at(residual.values, offset),
                              data.at(residual.gradient, offset), piece, p, activation, leak, both);
    } else {
      loops.run_gradient_sums(data.element, incoming, from, piece, p, activation, leak, both);
    }
    sums[to] = both[0];
    products[to] = both[1];
  });
  g = sum_blocks(plan, [&](int64_t b, int64_t j) { return sums[b * plan.width + j]; });
  gx = sum_blocks(plan, [&](int64_t b, int64_t j) { return products[b * plan.width + j]; });
}

inline Tensor vector_like(const Tensor& x, int64_t size) {
  return torch::stable::new_empty(x, {size}, torch::headeronly::ScalarType::Float);
}

inline float* writable(const Tensor& vector) { return static_cast<float*>(vector.mutable_data_ptr()); }

}  // namespace cpu
}  // namespace fastvgan
