// The inner loops of the convolutions on the CPU, as a table of functions.
//
// All three are products of a matrix that is read a value at a time (its rows are the tile's rows) with one that is
// read in vectors (a panel: kVectors of them side by side). Both are packed beforehand into 32-bit words: a float, or
// two bfloat16 that are multiplied and added in one instruction.
#pragma once

#include <stdint.h>

#include "element.h"

namespace fastvgan {

constexpr int kVectors = 2;       // vectors in a panel
constexpr int kMostRows = 32;     // of a tile
constexpr int kWidestPanel = 32;  // words
constexpr int kTileSize = kMostRows * kWidestPanel;  // floats, at most
constexpr int64_t kBlock = 16;    // words of a row, and rows of a register, that an instruction for blocks takes

typedef uint32_t Word;

// `length` consecutive products, which begin at these words of the two matrices.
struct Segment {
  int64_t a, b, length;
};

// What a row of inputs goes through before it is packed: activation(x * scale + shift), or nothing.
struct Prologue {
  const float* scale = nullptr;
  const float* shift = nullptr;
  int64_t activation = 0;
  float slope = 0;
};

struct Epilogue {
  const float* bias = nullptr;  // a value for each of the panel's columns
  int64_t activation = 0;
  float slope = 0;
};

// Products of bfloat16 by an instruction that takes whole blocks of them. A tile's rows are packed in blocks of kBlock
// words, [block][row][kBlock], and there are 16 or 32 rows. Segments are multiples of kBlock long.
struct BlockTiles {
  // Of each thread, before its first product and after its last.
  void (*begin)();
  void (*end)();
  // out[rows][kWidestPanel], a row out_step floats from the next, (+)= the sum over all segments
  void (*multiply)(int64_t rows, int64_t vectors, const Word* a, const Word* b, const Segment* segments, int64_t count,
                   float* out, int64_t out_step, bool accumulate);
  // Rows (a null one is zeros) of `channels` elements, the last block filled with zeros
  void (*pack_rows)(const void* const* rows, int64_t count, int64_t channels, Prologue, Word* to);
  // to[j * kBlock + i] = from[i * step + j] for i < count, after them zeros; j < kBlock
  void (*transpose)(const Word* from, int64_t step, int64_t count, Word* to);
  // to[j * step + i] = word first + j of row i (of a null one 0), bfloat16 or float; i, j < kBlock
  void (*transpose_rows)(Element, const void* const* rows, int64_t first, Word* to, int64_t step);
};

struct Tiles {
  int64_t width;      // floats in a vector
  int64_t most_rows;  // of a tile
  bool pairs;         // whether two bfloat16 make a word; else every element becomes a float
  // out[rows][kVectors * width], a row out_step floats from the next, (+)= the sum over all segments
  void (*multiply)(bool pairs, int64_t rows, int64_t vectors, const Word* a, int64_t a_step, const Word* b,
                   const Segment* segments, int64_t count, float* out, int64_t out_step, bool accumulate);
  // to[k * step + r] = word k of row r (a null row is zeros); `channels` elements a row, the last word filled with 0;
  // pairs are of bfloat16 or of float, which is rounded
  void (*pack_rows)(Element, bool pairs, const void* const* rows, int64_t count, int64_t channels, Prologue, Word* to,
                    int64_t step);
  // to[c] = the elements c of first and of second (or null: 0) as a pair, or (not pairs) element c of first; pairs are
  // of bfloat16 or of float, which is rounded
  void (*interleave)(Element, bool pairs, const void* first, const void* second, int64_t channels, Word* to);
  // A tile's rows, through the epilogue, to their places (null: nowhere): piece p of row r, `columns` long, goes to
  // places[r * pieces + p]
  void (*store_rows)(Element, const float* tile, void* const* places, int64_t count, int64_t pieces, int64_t columns,
                     Epilogue);
  // Adds a tile's rows (of a null place: left out) to the count, mean and sum of squared deviations of each column
  void (*add_moments)(const float* tile, void* const* places, int64_t count, int64_t columns, const float* bias,
                      float* number, float* mean, float* deviations);
  const BlockTiles* blocks;  // null without such an instruction
};

}  // namespace fastvgan
