// conv_up and conv_down on the CPU: each output gathers what reaches it, so that neither inserted zeros nor padding are
// multiplied, nor anything is added up in memory. The arithmetic is in conv_tiles.inc.
//
// A tile's rows ("lanes") are the same output of several samples or, of few samples, neighbouring outputs along the
// last dimension. Its columns are output channels; where a transposed convolution has few of them, also the outputs
// that the same inputs reach (`fold`).
//
// The work is cut by the shape alone, never by the number of threads, so that statistics do not depend on it.
#include "conv_gather.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "conv_packing.h"
#include "loops.h"

namespace fastvgan {
namespace cpu {
namespace {

constexpr int64_t kManyLanes = 8;             // samples from which on they alone make good tiles
constexpr int64_t kLargestPlane = 1 << 20;    // values of a packed plane beyond which rows of outputs are the lanes
constexpr int64_t kLargestPlaneOfBlocks = 1 << 18;  // which are wider, of 16-bit values
constexpr int64_t kFewChannels = 8;           // up to which taps count as channels
constexpr int64_t kLongest = 256;             // words of a segment: what is added up at once
constexpr int64_t kMostTogether = 2;          // tiles that a sink takes at once
constexpr int64_t kUnits = 8;                 // pieces of work to have at least: threads then finish at about one time

// Of a unit of work: a number for each panel, the others for each column.
struct Moments {
  std::vector<float> number, mean, deviations;
};

}  // namespace

class Gather {
 public:
  explicit Gather(const Problem& problem) : p(problem), t(loops().conv) {
    pairs = t.pairs && p.storage.element == Element::kBFloat16;
    blocks = pairs ? t.blocks : nullptr;
    width = kVectors * t.width;
    choose_folds();
    for (int d = 0; d < 3; ++d) visits[d] = visit_outputs(p.lines[d], folds[d]);
    channels = p.in_channels;
    fold = visits[0].fold * visits[1].fold * visits[2].fold;
    columns = p.order.empty() ? p.out_channels * fold : static_cast<int64_t>(p.order.size());
    panels = ceil_divide(columns, width);
    choose_lanes();
    choose_lines();
    taps = visits[0].taps * visits[1].taps * visits[2].taps;
    choose_units();
    pack_weights();
    expand_bias();
  }

  // To the sink, or where that is null to y.
  void run(float* mean, float* var, const TileSink* sink);

 private:
  const Problem& p;
  const Tiles& t;
  bool pairs;
  const BlockTiles* blocks;  // null: products of words
  int64_t width;
  bool merged = false;             // whether the taps along the last dimension count as channels
  int64_t channels, used_words;    // of a tap
  int64_t words;                   // with the zeros that fill a block
  int64_t slot_words, line_words;  // packed: from one input column, or row, to the next
  bool folds[3] = {false, false, false};
  Visit visits[3];
  int64_t fold, columns, panels, taps;
  Lanes lanes;
  int64_t rows = 0, lane_tiles = 0, ring = 1;
  int64_t spans = 1, panel_parts = 1, units = 1;  // spans of the first dimension
  std::vector<std::vector<int64_t>> offsets_of;  // of each fold: the weight's taps
  Scratch<Word> weights;
  Scratch<float> biases;
  std::vector<Moments> moments;

  struct Unit;

  // Fold as long as a panel is not full. Taps that a folded kernel lacks are zeros, so a kernel smaller than the
  // stride, or a dilated one, is left as it is.
  void choose_folds() {
    if (!p.up || p.statistics || p.sunk) return;
    int64_t total = p.out_channels;
    for (int d = 2; d >= 0; --d) {
      const Line& line = p.lines[d];
      if (line.stride == 1 || line.dilation != 1 || line.kernel < line.stride) continue;
      if (total * line.stride > width) continue;
      total *= line.stride;
      folds[d] = true;
    }
  }

  void choose_lanes() {
    const Line& last = p.lines[2];
    const int64_t most_rows = blocks ? kMostRows : t.most_rows;
    const int64_t plane = p.lines[1].in * last.in * p.in_channels * std::min(p.batch, most_rows);
    const bool few = p.batch < (blocks ? kBlock : kManyLanes);
    // A sink reads and writes several tensors lane by lane. Samples often lie a power of two apart, on the same sets of
    // the caches; neighbours do not.
    if (p.sunk || few || plane > (blocks ? kLargestPlaneOfBlocks : kLargestPlane)) {
      lanes = lanes_across(last, visits[2]);
    } else {
      lanes.slots = last.in;
    }
    const int64_t count = p.batch * lanes.outputs;
    rows = blocks ? best_blocks(count) : best_rows(count, t.most_rows);
    lane_tiles = ceil_divide(count, rows);
  }

  // Of few input channels, those of all taps along the last dimension, which lie side by side in memory, make up full
  // words, and a line of them is packed at once. A word must not reach into the next window: its 0 times a NaN is one.
  void choose_lines() {
    const Line& last = p.lines[2];
    const int64_t per = pairs ? 2 : 1;
    merged = !p.up && p.in_channels <= kFewChannels && p.groups == 1 && p.x.step[2] == p.in_channels &&
             last.dilation == 1 && !lanes.across && p.prologue.scale == nullptr && p.prologue.activation == 0 &&
             (blocks || (last.kernel * p.in_channels % per == 0 && last.stride * p.in_channels % per == 0));
    if (merged) channels = last.kernel * p.in_channels;
    used_words = ceil_divide(channels, per);
    words = blocks ? ceil_divide(used_words, kBlock) * kBlock : used_words;
    if (merged) lanes.slots = last.out;  // windows, which blocks do not share
    slot_words = merged && !blocks ? 1 : words;
    line_words = merged && !blocks ? padded_line() / per : words * lanes.slots;
    if (!merged) return;
    visits[2].taps = 1;
    for (int64_t i = 0; i < last.out; ++i) {
      const int64_t window = visits[2].positions[i];
      visits[2].reaches[i] = {{blocks ? window : window * last.stride * p.in_channels / per, 0}};
    }
  }

  // Elements of a line with its padding.
  int64_t padded_line() const {
    const Line& last = p.lines[2];
    return ((last.out - 1) * last.stride + last.kernel) * p.in_channels;
  }

  void choose_units() {
    const Visit& first = visits[0];
    const int64_t outputs = static_cast<int64_t>(first.positions.size());
    spans = std::min(outputs, std::max<int64_t>(1, ceil_divide(kUnits, lane_tiles * p.groups)));
    panel_parts = std::min(panels / p.together,
                           std::max<int64_t>(1, ceil_divide(kUnits, lane_tiles * p.groups * spans)));
    units = p.groups * lane_tiles * spans * panel_parts;
    for (const auto& reach : first.reaches) {
      if (reach.empty()) continue;
      const auto ends = std::minmax_element(reach.begin(), reach.end(),
                                            [](const Reach& a, const Reach& b) { return a.from < b.from; });
      ring = std::max(ring, ends.second->from - ends.first->from + 1);
    }
  }

  int64_t panel_size() const { return taps * words * width; }
  int64_t columns_of(int64_t panel) const { return std::min(width, columns - panel * width); }

  // Where the taps of one fold's columns lie in the weight: its tap for a folded one, or -1 where there is none.
  std::vector<int64_t> tap_offsets(int64_t f) const {
    std::vector<int64_t> offsets;
    int64_t phase[3];
    for (int d = 2; d >= 0; --d) {
      phase[d] = f % visits[d].fold;
      f /= visits[d].fold;
    }
    for (int64_t m0 = 0; m0 < visits[0].taps; ++m0) {
      for (int64_t m1 = 0; m1 < visits[1].taps; ++m1) {
        for (int64_t m2 = 0; m2 < visits[2].taps; ++m2) {
          const int64_t m[3] = {m0, m1, m2};
          int64_t offset = 0;
          for (int d = 0; d < 3 && offset >= 0; ++d) {
            const int64_t tap = m[d] * visits[d].fold + phase[d];
            offset = tap < p.lines[d].kernel ? offset + tap * p.weight.step[d] : -1;
          }
          offsets.push_back(offset);
        }
      }
    }
    return offsets;
  }

  // From the weight's first element of a tap to that of an input channel.
  int64_t channel_offset(int64_t channel) const {
    if (!merged) return channel * p.weight_in;
    return channel / p.in_channels * p.weight.step[2] + channel % p.in_channels * p.weight_in;
  }

  const char* weight_at(int64_t offset) const {
    return static_cast<const char*>(p.weight.data) + offset * p.weight_storage.size;
  }

  // weights[group][panel][tap][word][width]
  void pack_weights() {
    for (int64_t f = 0; f < fold; ++f) offsets_of.push_back(tap_offsets(f));
    weights = Scratch<Word>(p.groups * panels * panel_size());
    const int64_t unit = blocks ? kBlock : 1, cut = ceil_divide(used_words, unit);
    const int64_t parts = std::min<int64_t>(cut, 8);
    torch::stable::parallel_for(0, p.groups * panels * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i % parts, panel = i / parts % panels, group = i / parts / panels;
        pack_panel(group, panel, part * cut / parts * unit, std::min(used_words, (part + 1) * cut / parts * unit));
        if (part == 0) fill_panel(group, panel);
      }
    });
  }

  // What a panel's blocks have beyond the channels.
  void fill_panel(int64_t group, int64_t panel) {
    Word* to = weights.get() + (group * panels + panel) * panel_size();
    for (int64_t tap = 0; tap < taps; ++tap, to += words * width) {
      std::fill(to + used_words * width, to + words * width, 0);
    }
  }

  void pack_panel(int64_t group, int64_t panel, int64_t first, int64_t last) {
    Word* to = weights.get() + (group * panels + panel) * panel_size();
    const int64_t base = group * p.weight_group, count = columns_of(panel), per = pairs ? 2 : 1;
    if (p.weight_out == 1 && fold == 1 && p.order.empty()) {
      const auto& offsets = offsets_of[0];
      for (int64_t tap = 0; tap < taps; ++tap) {
        for (int64_t word = first; word < last; ++word) {
          const int64_t at = base + offsets[tap] + panel * width, channel = word * per;
          const void* one = weight_at(at + channel_offset(channel));
          const void* other = pairs && channel + 1 < channels ? weight_at(at + channel_offset(channel + 1)) : nullptr;
          Word* into = to + (tap * words + word) * width;
          t.interleave(p.weight_storage.element, pairs, one, other, count, into);
          std::fill(into + count, into + width, 0);
        }
      }
      return;
    }
    pack_columns(to, base, panel, count, first, last);
  }

  // The same where the weight's input channels, or its taps, lie side by side.
  void pack_columns(Word* to, int64_t base, int64_t panel, int64_t count, int64_t first, int64_t last) const {
    const int64_t* taps_of[kWidestPanel];
    int64_t first_of[kWidestPanel];
    for (int64_t c = 0; c < count; ++c) {
      const int64_t column = panel * width + c;
      const int64_t channel = p.order.empty() ? column % p.out_channels : p.order[column];
      taps_of[c] = channel < 0 ? nullptr : offsets_of[p.order.empty() ? column / p.out_channels : 0].data();
      first_of[c] = base + channel * p.weight_out;
    }
    for (int64_t tap = 0; tap < taps; ++tap) {
      int64_t at[kWidestPanel];  // of each column's first channel; -1: no such tap
      for (int64_t c = 0; c < width; ++c) {
        const int64_t offset = c < count && taps_of[c] != nullptr ? taps_of[c][tap] : -1;
        at[c] = offset < 0 ? -1 : first_of[c] + offset;
      }
      if (p.weight_in == 1 && !merged) {
        pack_from_channels(to + tap * words * width, at, first, last);
        continue;
      }
      for (int64_t word = first; word < last; ++word) {
        Word* into = to + (tap * words + word) * width;
        for (int64_t c = 0; c < width; ++c) into[c] = at[c] < 0 ? 0 : word_at(at[c], word);
      }
    }
  }

  void pack_from_channels(Word* to, const int64_t at[], int64_t first, int64_t last) const {
    constexpr int64_t kRows = 4;  // divides every width, so that what is left of a panel is null rows
    const int64_t per = pairs ? 2 : 1, part = std::min(last * per, channels) - first * per;
    const int64_t whole = blocks ? std::min(part / per, last - first) / kBlock * kBlock : 0;
    const void* from[kWidestPanel];
    for (int64_t c = 0; c < width; ++c) from[c] = at[c] < 0 ? nullptr : weight_at(at[c] + first * per);
    for (int64_t c = 0; c < width && whole > 0; c += kBlock) {
      for (int64_t k = 0; k < whole; k += kBlock) {
        blocks->transpose_rows(p.weight_storage.element, from + c, k, to + (first + k) * width + c, width);
      }
    }
    if (whole * per >= part) return;
    for (int64_t c = 0; c < width; ++c) from[c] = at[c] < 0 ? nullptr : weight_at(at[c] + (first + whole) * per);
    for (int64_t c = 0; c < width; c += kRows) {
      t.pack_rows(p.weight_storage.element, pairs, from + c, kRows, part - whole * per, Prologue{},
                  to + (first + whole) * width + c, width);
    }
  }

  Word word_at(int64_t at, int64_t word) const {
    Word result = 0;
    const int64_t first = pairs ? 2 * word : word;
    const void* second = pairs && first + 1 < channels ? weight_at(at + channel_offset(first + 1)) : nullptr;
    t.interleave(p.weight_storage.element, pairs, weight_at(at + channel_offset(first)), second, 1, &result);
    return result;
  }

  // A value for each column of each panel.
  void expand_bias() {
    if (p.bias == nullptr) return;
    biases = Scratch<float>(p.groups * panels * width);
    for (int64_t i = 0; i < p.groups * panels * width; ++i) {
      const int64_t group = i / (panels * width), column = i % (panels * width);
      biases[i] = column < columns ? p.bias[group * p.out_channels + column % p.out_channels] : 0;
    }
  }

  // Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
  void join_moments(float* mean, float* var) const {
    for (int64_t c = 0; c < p.groups * p.out_channels; ++c) {
      const int64_t group = c / p.out_channels, column = c % p.out_channels;
      double number = 0, centre = 0, deviations = 0;
      for (int64_t u = 0; u < units; ++u) {
        const Moments& part = moments[u];
        const int64_t at = column - panel_begin(u % panel_parts) * width;
        if (group_of(u) != group || at < 0 || at >= static_cast<int64_t>(part.mean.size())) continue;
        const double added = part.number[at / width], total = number + added, apart = part.mean[at] - centre;
        if (added == 0) continue;
        centre += apart * added / total;
        deviations += part.deviations[at] + apart * apart * number * added / total;
        number = total;
      }
      mean[c] = static_cast<float>(centre);
      var[c] = static_cast<float>(deviations / number);
    }
  }

  int64_t group_of(int64_t unit) const { return unit / (panel_parts * spans * lane_tiles); }
  int64_t panel_begin(int64_t part) const { return part * (panels / p.together) / panel_parts * p.together; }
};

// What one thread works with.
struct Gather::Unit {
  Gather& g;
  int64_t group = 0, lane_tile = 0, panel_first = 0, panel_end = 0;
  int64_t sample[kMostRows], output[kMostRows];  // of each lane; sample -1: none
  int64_t place[kMostRows];                      // bytes from the first lane's output to each one's
  int64_t plane_size;
  Scratch<Word> planes;
  Scratch<char> padded;  // merged: the lines about to be packed
  std::vector<int64_t> held;  // the plane in each place of the ring
  std::vector<Segment> segments;
  std::vector<int64_t> starts;
  Moments* moments = nullptr;
  const TileSink* sink;
  alignas(64) float tiles[kMostTogether * kTileSize];

  Unit(Gather& gather, const TileSink* results)
      : g(gather),
        plane_size(g.p.lines[1].in * g.line_words * g.rows),
        planes(g.ring * plane_size),
        padded(g.merged ? g.rows * g.padded_line() * g.p.storage.size : 0),
        held(g.ring),
        sink(results) {}

  void run(int64_t index) {
    const int64_t part = index % g.panel_parts;
    const int64_t span = index / g.panel_parts % g.spans;
    lane_tile = index / g.panel_parts / g.spans % g.lane_tiles;
    group = g.group_of(index);
    panel_first = g.panel_begin(part);
    panel_end = g.panel_begin(part + 1);
    for (int64_t r = 0; r < g.rows; ++r) {
      const int64_t lane = lane_tile * g.rows + r;
      sample[r] = lane < g.p.batch * g.lanes.outputs ? lane / g.lanes.outputs : -1;
      output[r] = lane % g.lanes.outputs;
      place[r] = (sample[r] * g.p.y.sample + output[r] * g.lanes.step * g.p.y.step[2]) * g.p.storage.size;
    }
    std::fill(held.begin(), held.end(), -1);
    if (g.p.statistics) {
      moments = &g.moments[index];
      const int64_t channels = (panel_end - panel_first) * g.width;
      moments->number.assign(panel_end - panel_first, 0);
      moments->mean.assign(channels, 0);
      moments->deviations.assign(channels, 0);
    }
    const int64_t outputs = static_cast<int64_t>(g.visits[0].positions.size());
    for (int64_t i = span * outputs / g.spans; i < (span + 1) * outputs / g.spans; ++i) run_plane(i);
  }

  void run_plane(int64_t first) {
    find_segments(first);
    const Visit &middle = g.visits[1], &last = g.visits[2];
    const int64_t rest = static_cast<int64_t>(last.positions.size());
    const int64_t count = static_cast<int64_t>(middle.positions.size()) * rest;
    for (int64_t panel = panel_first; panel < panel_end; panel += g.p.together) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at[3] = {g.visits[0].positions[first], middle.positions[i / rest], last.positions[i % rest]};
        for (int64_t k = 0; k < g.p.together; ++k) {
          multiply(panel + k, &segments[starts[i]], starts[i + 1] - starts[i], tiles + k * kTileSize);
        }
        sink == nullptr ? store(panel, at) : hand_over(panel, at);
      }
    }
  }

  // Those of every tile of a plane of outputs, after the planes of inputs that they need are packed.
  void find_segments(int64_t first) {
    const Visit &middle = g.visits[1], &last = g.visits[2];
    for (const Reach& reach : g.visits[0].reaches[first]) pack_plane(reach.from);
    segments.clear();
    starts.assign(1, 0);
    for (const auto& rows_reached : middle.reaches) {
      for (const auto& columns_reached : last.reaches) {
        add_segments(g.visits[0].reaches[first], rows_reached, columns_reached);
        starts.push_back(static_cast<int64_t>(segments.size()));
      }
    }
    segments.push_back({0, 0, 0});  // so that there is a first one
  }

  void add_segments(const std::vector<Reach>& planes_reached, const std::vector<Reach>& rows_reached,
                    const std::vector<Reach>& columns_reached) {
    const size_t begin = segments.size();
    for (const Reach& u : planes_reached) {
      for (const Reach& v : rows_reached) {
        for (const Reach& w : columns_reached) {
          const int64_t line = u.from % g.ring * g.p.lines[1].in + v.from;
          const int64_t at = line * g.line_words + w.from * g.slot_words;
          const int64_t tap = (u.tap * g.visits[1].taps + v.tap) * g.visits[2].taps + w.tap;
          for (int64_t k = 0; k < g.words; k += kLongest) {
            const int64_t length = std::min(kLongest, g.words - k);
            add_segment({(at + k) * g.rows, (tap * g.words + k) * g.width, length}, begin);
          }
        }
      }
    }
  }

  // As a part of the one before where it goes on in both matrices.
  void add_segment(Segment next, size_t begin) {
    if (segments.size() > begin) {
      Segment& before = segments.back();
      if (before.a + before.length * g.rows == next.a && before.b + before.length * g.width == next.b &&
          before.length + next.length <= kLongest) {
        before.length += next.length;
        return;
      }
    }
    segments.push_back(next);
  }

  // `words` for each of the rows.
  void pack_rows(const void* const* from, int64_t channels, Prologue prologue, Word* to) const {
    if (g.blocks) return g.blocks->pack_rows(from, g.rows, channels, prologue, to);
    g.t.pack_rows(g.p.storage.element, g.pairs, from, g.rows, channels, prologue, to, g.rows);
  }

  void pack_plane(int64_t plane) {
    if (held[plane % g.ring] == plane) return;
    held[plane % g.ring] = plane;
    const Line &middle = g.p.lines[1], &last = g.p.lines[2];
    const Volume& x = g.p.x;
    const int64_t channel = group * g.p.in_channels;
    Prologue prologue = g.p.prologue;
    if (prologue.scale != nullptr) prologue.scale += channel, prologue.shift += channel;
    Word* to = planes.get() + plane % g.ring * plane_size;
    for (int64_t h = 0; h < middle.in; ++h) {
      if (g.merged) {
        pack_line(plane, h, to);
        to += g.line_words * g.rows;
        continue;
      }
      for (int64_t slot = 0; slot < g.lanes.slots; ++slot, to += g.words * g.rows) {
        const void* from[kMostRows];
        for (int64_t r = 0; r < g.rows; ++r) {
          const int64_t w = g.lanes.across ? output[r] * g.lanes.in_step + g.lanes.in_offset[slot] : slot;
          const bool inside = sample[r] >= 0 && w >= 0 && w < last.in;
          const int64_t offset = sample[r] * x.sample + plane * x.step[0] + h * x.step[1] + w * x.step[2] + channel;
          from[r] = inside ? static_cast<const char*>(x.data) + offset * g.p.storage.size : nullptr;
        }
        pack_rows(from, g.p.in_channels, prologue, to);
      }
    }
  }

  void pack_line(int64_t plane, int64_t h, Word* to) const {
    const Volume& x = g.p.x;
    const int64_t size = g.padded_line() * g.p.storage.size, voxel = g.p.in_channels * g.p.storage.size;
    const int64_t before = g.p.lines[2].padding * voxel;
    const int64_t inside = std::min(g.p.lines[2].in * voxel, size - before);
    const void* from[kMostRows];
    for (int64_t r = 0; r < g.rows; ++r) {
      char* line = padded.get() + r * size;
      from[r] = sample[r] < 0 ? nullptr : line;
      if (sample[r] < 0) continue;
      const int64_t offset = sample[r] * x.sample + plane * x.step[0] + h * x.step[1];
      std::fill(line, line + size, 0);
      if (inside > 0) std::copy_n(static_cast<const char*>(x.data) + offset * g.p.storage.size, inside, line + before);
    }
    if (!g.blocks) return pack_rows(from, g.padded_line(), Prologue{}, to);
    const int64_t step = g.p.lines[2].stride * voxel;
    for (int64_t window = 0; window < g.lanes.slots; ++window, to += g.words * g.rows) {
      const void* at[kMostRows];
      for (int64_t r = 0; r < g.rows; ++r) {
        at[r] = from[r] == nullptr ? nullptr : static_cast<const char*>(from[r]) + window * step;
      }
      pack_rows(at, g.channels, Prologue{}, to);
    }
  }

  void multiply(int64_t panel, const Segment* first, int64_t count, float* tile) const {
    const Word* b = g.weights.get() + (group * g.panels + panel) * g.panel_size();
    const int64_t vectors = g.columns_of(panel) <= g.t.width ? 1 : kVectors;
    if (g.blocks) return g.blocks->multiply(g.rows, vectors, planes.get(), b, first, count, tile, g.width, false);
    g.t.multiply(g.pairs, g.rows, vectors, planes.get(), g.rows, b, first, count, tile, g.width, false);
  }

  // Of a stride of 1 every lane's output is one of y's.
  void hand_over(int64_t panel, const int64_t at[3]) const {
    for (int64_t r = 0, count; r < g.rows && sample[r] >= 0; r += count) {
      count = std::min(g.rows - r, g.lanes.outputs - output[r]);
      sink->take(tiles + r * g.width, panel, {sample[r], {at[0], at[1], at[2] + output[r]}, count});
    }
  }

  void store(int64_t panel, const int64_t at[3]) {
    const int64_t columns = g.columns_of(panel), index = group * g.panels + panel;
    void* places[kMostRows * kWidestPanel];
    find_places(panel, at, places);
    Epilogue epilogue = g.p.epilogue;
    epilogue.bias = g.p.bias == nullptr ? nullptr : &g.biases[index * g.width];
    if (moments != nullptr) {
      const int64_t own = panel - panel_first, channel = own * g.width;
      g.t.add_moments(tiles, places, g.rows, columns, epilogue.bias, &moments->number[own], &moments->mean[channel],
                      &moments->deviations[channel]);
    }
    g.t.store_rows(g.p.storage.element, tiles, places, g.rows, g.fold, g.fold == 1 ? columns : g.p.out_channels,
                   epilogue);
  }

  // Where each lane's outputs go, one for each fold; null outside.
  void find_places(int64_t panel, const int64_t at[3], void** places) const {
    const Volume& y = g.p.y;
    const int64_t channel = group * g.p.out_channels + panel * g.width;
    if (g.fold == 1) {
      const int64_t offset = at[0] * y.step[0] + at[1] * y.step[1] + at[2] * y.step[2] + channel;
      char* first = static_cast<char*>(y.data) + offset * g.p.storage.size;
      for (int64_t r = 0; r < g.rows; ++r) {
        const bool inside = sample[r] >= 0 && at[2] + output[r] * g.lanes.step < g.p.lines[2].out;
        places[r] = inside ? first + place[r] : nullptr;
      }
      return;
    }
    // Of the folds, by what the lanes share; then of each lane by its own column.
    int64_t offsets[kWidestPanel], columns[kWidestPanel], count = 0;
    for (int64_t f0 = at[0]; f0 < at[0] + g.visits[0].fold; ++f0) {
      for (int64_t f1 = at[1]; f1 < at[1] + g.visits[1].fold; ++f1) {
        const bool inside = f0 >= 0 && f0 < g.p.lines[0].out && f1 >= 0 && f1 < g.p.lines[1].out;
        for (int64_t f2 = at[2]; f2 < at[2] + g.visits[2].fold; ++f2, ++count) {
          offsets[count] = (f0 * y.step[0] + f1 * y.step[1] + f2 * y.step[2] + channel) * g.p.storage.size;
          columns[count] = inside ? f2 : INT64_MIN / 2;  // whatever the lane
        }
      }
    }
    for (int64_t r = 0; r < g.rows; ++r, places += count) {
      const int64_t further = output[r] * g.lanes.step;
      for (int64_t f = 0; f < count; ++f) {
        const int64_t column = columns[f] + further;
        const bool inside = sample[r] >= 0 && column >= 0 && column < g.p.lines[2].out;
        places[f] = inside ? static_cast<char*>(y.data) + place[r] + offsets[f] : nullptr;
      }
    }
  }
};

void Gather::run(float* mean, float* var, const TileSink* sink) {
  moments.resize(p.statistics ? units : 0);
  torch::stable::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
    Unit unit(*this, sink);
    const UseOfBlocks use(blocks);
    for (int64_t i = begin; i < end; ++i) unit.run(i);
  });
  if (p.statistics) join_moments(mean, var);
}

GatheredConv::GatheredConv(Problem problem)
    : problem_(std::move(problem)), gather_(std::make_unique<Gather>(problem_)) {}

GatheredConv::~GatheredConv() = default;

void GatheredConv::run(float* mean, float* var) { gather_->run(mean, var, nullptr); }

void GatheredConv::run(const Volume& x, const TileSink& sink) {
  problem_.x = x;
  gather_->run(nullptr, nullptr, &sink);
}

Problem problem_of(bool up, const ConvShape& shape, const Tensor& x, const Tensor& weight, const Tensor& y) {
  check_weight(shape, weight);
  Problem p;
  p.up = up;
  p.batch = shape.batch;
  p.groups = shape.groups;
  p.in_channels = up ? shape.small_channels : shape.large_channels;
  p.out_channels = up ? shape.large_channels : shape.small_channels;
  const Three &in = up ? shape.small : shape.large, &out = up ? shape.large : shape.small;
  for (int d = 0; d < 3; ++d) {
    p.lines[d] = {in[d], out[d], shape.kernel[d], shape.stride[d], shape.padding[d], shape.dilation[d], up};
  }
  p.x = volume_of(x);
  p.y = volume_of(y);
  p.weight = volume_of(weight);
  STD_TORCH_CHECK(side_by_side(x) && side_by_side(y), "conv: the channels of x and y must lie side by side");
  p.weight_in = up ? p.weight.sample : p.weight.channel;
  p.weight_out = up ? p.weight.channel : p.weight.sample;
  p.weight_group = shape.small_channels * p.weight.sample;
  p.storage = storage_of(x);
  p.weight_storage = storage_of(weight);
  STD_TORCH_CHECK(p.weight_storage.element == p.storage.element || p.weight_storage.element == Element::kFloat,
                  "conv: the dtypes differ");
  return p;
}

}  // namespace cpu
}  // namespace fastvgan
