#include "conv_gather_inputs.h"

#include <algorithm>

namespace fastvgan {
namespace cpu {

PackedInputs::PackedInputs(const Problem& problem, const GatherPlan& plan, const Volume& x)
    : p_(problem),
      plan_(plan),
      x_(x),
      plane_size_(problem.dimensions[1].in * plan.line_words * plan.rows),
      planes_(plan.ring * plane_size_),
      padded_(plan.merges_taps ? plan.rows * plan.padded_line * problem.storage.size : 0),
      plane_in_ring_(plan.ring) {}

void PackedInputs::reset(const TileRows& rows, int64_t group) {
  rows_ = &rows;
  group_ = group;
  std::fill(plane_in_ring_.begin(), plane_in_ring_.end(), -1);
}

void PackedInputs::pack_plane(int64_t plane) {
  const int64_t place = plane % plan_.ring;
  if (plane_in_ring_[place] == plane) return;
  plane_in_ring_[place] = plane;
  Prologue prologue = p_.prologue;
  if (prologue.scale != nullptr) {
    prologue.scale += group_ * p_.in_channels;
    prologue.shift += group_ * p_.in_channels;
  }
  Word* to = planes_.get() + place * plane_size_;
  for (int64_t line = 0; line < p_.dimensions[1].in; ++line, to += plan_.line_words * plan_.rows) {
    plan_.merges_taps ? pack_merged_line(plane, line, to) : pack_slots(plane, line, prologue, to);
  }
}

void PackedInputs::pack_slots(int64_t plane, int64_t line, const Prologue& prologue, Word* to) const {
  const Lanes& lanes = plan_.lanes;
  const int64_t channel = group_ * p_.in_channels, columns = p_.dimensions[2].in;
  for (int64_t slot = 0; slot < lanes.slots; ++slot, to += plan_.words * plan_.rows) {
    const void* from[kMostRows];
    for (int64_t r = 0; r < plan_.rows; ++r) {
      const int64_t sample = rows_->sample[r];
      const int64_t column = lanes.across ? rows_->output[r] * lanes.in_step + lanes.in_offset[slot] : slot;
      const bool is_inside = sample >= 0 && column >= 0 && column < columns;
      const int64_t offset = channel + sample * x_.sample + plane * x_.step[0] + line * x_.step[1] +
                             column * x_.step[2];
      from[r] = is_inside ? p_.storage.at(x_.data, offset) : nullptr;
    }
    pack_rows(from, p_.in_channels, prologue, to);
  }
}

void PackedInputs::pack_merged_line(int64_t plane, int64_t line, Word* to) const {
  const void* lines[kMostRows];
  for (int64_t r = 0; r < plan_.rows; ++r) lines[r] = pad_line(r, plane, line);
  if (!plan_.blocks) return pack_rows(lines, plan_.padded_line, Prologue{}, to);
  const int64_t step = p_.dimensions[2].stride * p_.in_channels;
  for (int64_t window = 0; window < plan_.lanes.slots; ++window, to += plan_.words * plan_.rows) {
    const void* from[kMostRows];
    for (int64_t r = 0; r < plan_.rows; ++r) {
      from[r] = lines[r] == nullptr ? nullptr : p_.storage.at(lines[r], window * step);
    }
    pack_rows(from, plan_.channels, Prologue{}, to);
  }
}

// A copy of a row's line of inputs with its padding; null for a row without a sample.
const void* PackedInputs::pad_line(int64_t row, int64_t plane, int64_t line) const {
  const int64_t sample = rows_->sample[row];
  if (sample < 0) return nullptr;
  const Dimension& last = p_.dimensions[2];
  const int64_t size = plan_.padded_line * p_.storage.size, voxel = p_.in_channels * p_.storage.size;
  const int64_t before = last.padding * voxel, inside = std::min(last.in * voxel, size - before);
  char* to = padded_.get() + row * size;
  std::fill(to, to + size, 0);
  const void* from = p_.storage.at(x_.data, sample * x_.sample + plane * x_.step[0] + line * x_.step[1]);
  if (inside > 0) std::copy_n(static_cast<const char*>(from), inside, to + before);
  return to;
}

// Pack `plan.words` words of each of the tile's rows; a null row is zeros.
void PackedInputs::pack_rows(const void* const* from, int64_t channels, const Prologue& prologue, Word* to) const {
  if (plan_.blocks) return plan_.blocks->pack_rows(from, plan_.rows, channels, prologue, to);
  plan_.tiles->pack_rows(p_.storage.element, plan_.has_pairs, from, plan_.rows, channels, prologue, to, plan_.rows);
}

}  // namespace cpu
}  // namespace fastvgan
