// The inner loops of the convolutions on the CPU, as a table of functions.
//
// All three convolutions are matrix products. The left matrix is read one value at a time; its rows are the tile's
// rows. The right one is read in vectors; kVectors adjacent ones are a panel. Both are packed beforehand into 32-bit
// words: one float, or two bfloat16 that one instruction multiplies and adds.
#pragma once

#include <stdint.h>

#include "element.h"

namespace fastvgan {

constexpr int kVectors = 2;       // vectors in a panel
constexpr int kMostRows = 32;     // most rows in a tile
constexpr int kWidestPanel = 32;  // words
constexpr int kTileSize = kMostRows * kWidestPanel;  // most floats in a tile
constexpr int64_t kBlock = 16;    // words per row, and rows per register, of an instruction for blocks

typedef uint32_t Word;

// `length` consecutive products, from words `a` and `b` of the two matrices on.
struct Segment {
  int64_t a, b, length;
};

// Applied to a row of inputs before it is packed: activation(x * scale + shift).
struct Prologue {
  const float* scale = nullptr;  // per channel; null: neither scale nor shift
  const float* shift = nullptr;
  int64_t activation = 0;
  float slope = 0;
};

// Applied to a tile before it is stored: activation(x + bias).
struct Epilogue {
  const float* bias = nullptr;  // per column of the panel; null: none
  int64_t activation = 0;
  float slope = 0;
};

// Products of bfloat16 by an instruction for whole blocks. A tile has 16 or 32 rows, packed as [blocks][rows][kBlock].
// The length of a segment is a multiple of kBlock.
struct BlockTiles {
  // Called by each thread before its first product and after its last.
  void (*begin)();
  void (*end)();
  // out [rows][kWidestPanel], rows out_step floats apart: set to, or increased by, the sum over all segments
  void (*multiply)(int64_t rows, int64_t vectors, const Word* a, const Word* b, const Segment* segments, int64_t count,
                   float* out, int64_t out_step, bool accumulate);
  // Pack `count` rows of `channels` elements (null: zeros); the last block is filled up with zeros.
  void (*pack_rows)(const void* const* rows, int64_t count, int64_t channels, Prologue, Word* to);
  // to[j * kBlock + i] = i < count ? from[i * step + j] : 0, for i, j < kBlock
  void (*transpose)(const Word* from, int64_t step, int64_t count, Word* to);
  // to[j * step + i] = word first + j of row i (null: 0), for i, j < kBlock; rows are bfloat16 or float
  void (*transpose_rows)(Element, const void* const* rows, int64_t first, Word* to, int64_t step);
};

struct Tiles {
  int64_t width;      // floats per vector
  int64_t most_rows;  // most rows in a tile
  bool pairs;         // whether a word can hold two bfloat16; if not, every element becomes a float
  // out [rows][kVectors * width], rows out_step floats apart: set to, or increased by, the sum over all segments
  void (*multiply)(bool pairs, int64_t rows, int64_t vectors, const Word* a, int64_t a_step, const Word* b,
                   const Segment* segments, int64_t count, float* out, int64_t out_step, bool accumulate);
  // to[k * step + r] = word k of row r (null: zeros) of `channels` elements; the last word is filled up with 0.
  // Pairs are made of bfloat16 or of float, which is rounded.
  void (*pack_rows)(Element, bool pairs, const void* const* rows, int64_t count, int64_t channels, Prologue, Word* to,
                    int64_t step);
  // to[c] = element c of first and, as a pair, of second (null: 0). Pairs are made of bfloat16 or of float, which is
  // rounded.
  void (*interleave)(Element, bool pairs, const void* first, const void* second, int64_t channels, Word* to);
  // Store a tile of `count` rows through the epilogue. Piece p of row r, `columns` values, goes to
  // places[r * pieces + p] (null: nowhere).
  void (*store_rows)(Element, const float* tile, void* const* places, int64_t count, int64_t pieces, int64_t columns,
                     Epilogue);
  // Add a tile's rows, except those with a null place, to the count, mean and sum of squared deviations per column.
  void (*add_moments)(const float* tile, void* const* places, int64_t count, int64_t columns, const float* bias,
                      float* number, float* mean, float* deviations);
  const BlockTiles* blocks;  // null if the instruction set has none
};

}  // namespace fastvgan
