// The inputs of one tile's rows, packed in the order in which tiles read them. One per thread.
#pragma once

#include <cstdint>
#include <vector>

#include "conv_gather_plan.h"
#include "conv_packing.h"

namespace fastvgan {
namespace cpu {

// The output that each row of a tile holds.
struct TileRows {
  int64_t sample[kMostRows];  // -1: none
  int64_t output[kMostRows];  // among the sample's rows
};

class PackedInputs {
 public:
  PackedInputs(const Problem& problem, const GatherPlan& plan, const Volume& x);

  // Begin with other rows or another group.
  void reset(const TileRows& rows, int64_t group);
  // Pack a plane of x, unless it is there already, over the one `plan.ring` planes before it.
  void pack_plane(int64_t plane);
  // [ring][lines][line_words][rows], or with blocks [ring][lines][line_words / kBlock][rows][kBlock]
  const Word* words() const { return planes_.get(); }
  // The packed line's number in words().
  int64_t line_at(int64_t plane, int64_t line) const { return plane % plan_.ring * p_.dimensions[1].in + line; }

 private:
  void pack_slots(int64_t plane, int64_t line, const Prologue& prologue, Word* to) const;
  void pack_merged_line(int64_t plane, int64_t line, Word* to) const;
  const void* pad_line(int64_t row, int64_t plane, int64_t line) const;
  void pack_rows(const void* const* from, int64_t channels, const Prologue& prologue, Word* to) const;

  const Problem& p_;
  const GatherPlan& plan_;
  const Volume& x_;
  const TileRows* rows_ = nullptr;
  int64_t group_ = 0;
  int64_t plane_size_;               // words
  Scratch<Word> planes_;
  Scratch<char> padded_;             // merged taps: a padded line per row
  std::vector<int64_t> plane_in_ring_;  // -1: none
};

}  // namespace cpu
}  // namespace fastvgan
