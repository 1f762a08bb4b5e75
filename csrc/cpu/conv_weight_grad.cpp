// conv_weight_grad on the CPU. The gradient of a tap is the product of the small side with the large side's values at
// that tap, summed over positions and samples. The arithmetic is in conv_tiles.inc.
//
// Both sides are packed with the samples innermost, so that every tap reads them in runs, without a column buffer. A
// tile's rows are channels of the small side, its columns channels of the large side. If the large side has too few
// channels to fill a vector ("lines"), the rows are instead the taps along the last dimension and the channels of the
// large side, which are adjacent in memory, and the columns are channels of the small side.
//
// The shape alone decides how the work is cut and in which order sums are formed, so that the result does not depend on
// the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../conv.h"
#include "conv_packing.h"
#include "loops.h"

namespace fastvgan {
namespace cpu {
namespace {

constexpr int64_t kMostRuns = 16;  // most words in a run: samples, or pairs of samples
constexpr int64_t kSteps = 1024;  // products per tile in a block, so that their operands stay in the cache
constexpr int64_t kBlockSteps = 2048;  // the same for products of whole blocks
constexpr int64_t kCached = 1 << 18;  // words of rows that the cache holds while all taps use them
constexpr int64_t kPassesInPlace = 2;  // most passes over the gradient itself, whose rows are far apart
constexpr int64_t kUnits = 16;  // fewest units of work, so that threads finish at about the same time

class WeightGrad {
 public:
  WeightGrad(const ConvShape& shape, const Tensor& large, const Tensor& small, const Tensor& grad)
      : s(shape), t(loops().conv), large_(volume_of(large)), small_(volume_of(small)), grad_(volume_of(grad)) {
    storage = storage_of(large);
    grad_storage = storage_of(grad);
    pairs = t.pairs && storage.element == Element::kBFloat16;
    blocks = pairs && s.batch >= kBlock ? t.blocks : nullptr;  // with fewer samples, blocks would be mostly empty
    width = kVectors * t.width;
    lines = s.large_channels <= t.width / 2;
    const bool taps_in_rows = lines && s.dilation[2] == 1;
    const int64_t line_rows = s.large_channels * (taps_in_rows ? s.kernel[2] : 1);
    rows_all = lines ? line_rows : s.small_channels;
    columns_all = lines ? s.small_channels : s.large_channels;
    taps = s.kernel[0] * s.kernel[1] * (taps_in_rows ? 1 : s.kernel[2]);
    rows = blocks ? best_blocks(rows_all) : best_rows(rows_all, t.most_rows);
    row_tiles = ceil_divide(rows_all, rows);
    panels = ceil_divide(columns_all, width);
    line = (s.small[2] - 1) * s.stride[2] + (s.kernel[2] - 1) * s.dilation[2] + 1;
    row_parts = std::min(row_tiles, ceil_divide(kUnits, s.groups * panels * taps));
  }

  void run() {
    const int64_t per = pairs ? 2 : 1, words = ceil_divide(s.batch, per);
    const int64_t parts = std::max<int64_t>(1, ceil_divide(words, kMostRuns));
    runs = blocks ? kBlock : ceil_divide(words, parts);
    const int64_t steps = blocks ? kBlockSteps : kSteps;
    block_lines = std::clamp<int64_t>(steps / std::max<int64_t>(1, s.small[2] * runs), 1, small_lines());
    tiles_first = !lines && row_tiles * block_lines * s.small[2] * runs * rows > kCached;
    const bool whole_tiles = !lines && columns_all % width == 0 && rows_all % rows == 0;
    in_place = whole_tiles && grad_storage.element == Element::kFloat && grad_.channel == 1 &&
               parts * ceil_divide(small_lines(), block_lines) <= kPassesInPlace;
    if (!in_place) sums = Scratch<float>(s.groups * panels * taps * row_tiles * rows * width);
    allocate();
    for (int64_t part = 0; part < parts; ++part) {
      first_sample = part * runs * per;
      last_sample = std::min(s.batch, first_sample + runs * per);
      length = ceil_divide(std::max<int64_t>(0, last_sample - first_sample), per);
      pack_large();
      for (first_line = 0; first_line < small_lines(); first_line += block_lines) {
        last_line = std::min(small_lines(), first_line + block_lines);
        pack_small();
        multiply(part > 0 || first_line > 0);
      }
    }
    if (!in_place) write();
  }

 private:
  const ConvShape& s;
  const Tiles& t;
  Volume large_, small_, grad_;
  Stored storage, grad_storage;
  bool pairs;  // whether a word holds two bfloat16
  bool lines;  // whether the large side has few channels
  const BlockTiles* blocks;  // products of whole blocks; null: of single words
  int64_t width, rows_all, columns_all, taps, rows, row_tiles, panels;
  int64_t line;  // positions in a padded line of the large side
  int64_t row_parts;
  bool tiles_first = false;  // whether a unit applies all taps to one tile of rows, not all tiles to one tap
  int64_t runs = 0, length = 0;  // words of a run: allocated, and used by this block
  int64_t first_sample = 0, last_sample = 0;  // samples of this block
  int64_t block_lines = 1, first_line = 0, last_line = 0;  // lines of the small side: per block, and of this block
  Scratch<Word> left, right;  // rows and columns
  bool in_place = false;  // whether tiles are added up in the gradient itself
  Scratch<float> sums;  // unless in place: [groups][panels][taps][row_tiles][rows][width]

  static int64_t places(const Int3& sizes) { return sizes[0] * sizes[1] * sizes[2]; }
  int64_t large_lines() const { return s.large[0] * s.large[1]; }
  int64_t small_lines() const { return s.small[0] * s.small[1]; }
  int64_t block_positions() const { return block_lines * s.small[2]; }

  // left:              [groups][row_tiles][positions][runs][rows]
  // left with blocks:  [groups][row_tiles][positions][rows][runs]
  // left with lines:   [groups][large_lines][runs][line * large_channels]
  // both:              [groups][large_lines][line * large_channels][runs]
  // right:             [groups][panels][positions][runs][width]
  // Positions of the small side are those of one block.
  int64_t left_size() const {
    return lines ? large_lines() * runs * line * s.large_channels : row_tiles * block_positions() * runs * rows;
  }
  int64_t right_size() const { return panels * column_positions() * runs * width; }
  int64_t column_positions() const { return lines ? block_positions() : places(s.large); }

  void allocate() {
    const int64_t beyond = kMostRows * (blocks ? kBlock : 1);  // a tile may extend beyond the last line
    left = Scratch<Word>(s.groups * left_size() + beyond);
    right = Scratch<Word>(s.groups * right_size());
    std::fill_n(left.get() + s.groups * left_size(), beyond, 0);
  }

  const void* at(const Volume& x, int64_t sample, int64_t position, const Int3& sizes, int64_t channel) const {
    if (sample >= last_sample) return nullptr;
    const int64_t w = position % sizes[2], h = position / sizes[2] % sizes[1], d = position / sizes[2] / sizes[1];
    const int64_t offset = sample * x.sample + d * x.step[0] + h * x.step[1] + w * x.step[2] + channel;
    return static_cast<const char*>(x.data) + offset * storage.size;
  }

  void interleave(const Volume& x, int64_t run, int64_t position, const Int3& sizes, int64_t channel, int64_t count,
                  Word* to) const {
    const int64_t sample = first_sample + run * (pairs ? 2 : 1);
    const void* second = pairs ? at(x, sample + 1, position, sizes, channel) : nullptr;
    t.interleave(storage.element, pairs, at(x, sample, position, sizes, channel), second, count, to);
  }

  void pack_large() {
    const int64_t count = lines ? large_lines() : places(s.large);
    torch::stable::parallel_for(0, s.groups * count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        lines ? pack_line(i / count, i % count) : pack_columns(large_, s.large, i / count, i % count, 0);
      }
    });
  }

  void pack_small() {
    const int64_t start = first_line * s.small[2], count = last_line * s.small[2] - start;
    torch::stable::parallel_for(0, s.groups * count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / count, position = start + i % count;
        lines ? pack_columns(small_, s.small, group, position, start) : pack_rows(group, position, start);
      }
    });
  }

  void pack_columns(const Volume& x, const Int3& sizes, int64_t group, int64_t position, int64_t start) const {
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t count = std::min(width, columns_all - panel * width);
      Word* to = right.get() + group * right_size() + (panel * column_positions() + position - start) * runs * width;
      for (int64_t run = 0; run < length; ++run, to += width) {
        interleave(x, run, position, sizes, group * columns_all + panel * width, count, to);
        std::fill(to + count, to + width, 0);
      }
      if (blocks) std::fill_n(to, (runs - length) * width, 0);
    }
  }

  void pack_rows(int64_t group, int64_t position, int64_t start) const {
    alignas(64) Word packed[kBlock * kMostRows];
    for (int64_t tile = 0; tile < row_tiles; ++tile) {
      const int64_t count = std::min(rows, rows_all - tile * rows);
      Word* place = left.get() + group * left_size() + (tile * block_positions() + position - start) * runs * rows;
      Word* to = blocks ? packed : place;
      for (int64_t run = 0; run < length; ++run, to += rows) {
        interleave(small_, run, position, s.small, group * rows_all + tile * rows, count, to);
        std::fill(to + count, to + rows, 0);
      }
      if (blocks) {
        for (int64_t r = 0; r < rows; r += kBlock) blocks->transpose(packed + r, rows, length, place + r * kBlock);
      }
    }
  }

  void pack_line(int64_t group, int64_t number) const {
    const int64_t size = line * s.large_channels;
    Word* place = left.get() + group * left_size() + number * runs * size;
    if (!blocks) return pack_line(group, number, place);
    const int64_t whole = size / kBlock * kBlock;
    Scratch<Word> packed(length * size + kBlock);  // transposing reads the last block to its end
    std::fill_n(packed.get() + length * size, kBlock, 0);
    pack_line(group, number, packed.get());
    for (int64_t i = 0; i < whole; i += kBlock) {
      blocks->transpose(packed.get() + i, size, length, place + i * kBlock);
    }
    if (whole == size) return;
    alignas(64) Word last[kBlock * kBlock];
    blocks->transpose(packed.get() + whole, size, length, last);
    std::copy_n(last, (size - whole) * kBlock, place + whole * kBlock);
  }

  // [runs][line * large_channels]
  void pack_line(int64_t group, int64_t number, Word* place) const {
    const int64_t channels = s.large_channels;
    const bool at_once = s.groups == 1 && large_.step[2] == channels;
    const int64_t begin = std::min(s.padding[2], line), end = std::min(line, s.padding[2] + s.large[2]);
    for (int64_t run = 0; run < length; ++run) {
      Word* to = place + run * line * channels;
      std::fill(to, to + begin * channels, 0);
      for (int64_t w = begin; w < end;) {
        const int64_t count = at_once ? end - w : 1, position = number * s.large[2] + w - s.padding[2];
        interleave(large_, run, position, s.large, group * channels, count * channels, to + w * channels);
        w += count;
      }
      if (end < line) std::fill(to + std::max(begin, end) * channels, to + line * channels, 0);
    }
  }

  void multiply(bool accumulate) {
    const int64_t units = s.groups * panels * (tiles_first ? row_tiles : taps * row_parts);
    torch::stable::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
      std::vector<Segment> segments;
      const BlocksScope use(blocks);
      for (int64_t i = begin; i < end; ++i) {
        if (tiles_first) {
          const int64_t tile = i % row_tiles;
          for (int64_t tap = 0; tap < taps; ++tap) {
            multiply_tiles(i / row_tiles * taps + tap, tile, tile + 1, accumulate, segments);
          }
        } else {
          const int64_t part = i % row_parts;
          const int64_t first = part * row_tiles / row_parts, last = (part + 1) * row_tiles / row_parts;
          multiply_tiles(i / row_parts, first, last, accumulate, segments);
        }
      }
    });
  }

  // The products of row tiles [first, last) with one panel at one tap.
  void multiply_tiles(int64_t product, int64_t first, int64_t last, bool accumulate,
                      std::vector<Segment>& segments) const {
    const int64_t tap = product % taps, panel = product / taps % panels, group = product / taps / panels;
    find_segments(tap, segments);
    const Word* a = left.get() + group * left_size();
    const Word* b = right.get() + group * right_size() + panel * column_positions() * runs * width;
    const int64_t vectors = columns_all - panel * width <= t.width ? 1 : kVectors;
    const int64_t a_step = lines ? line * s.large_channels : rows;
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t start = lines ? tile * rows * (blocks ? runs : 1) : tile * block_positions() * runs * rows;
      const int64_t count = std::min(rows, rows_all - tile * rows), length = static_cast<int64_t>(segments.size());
      char* in_grad = in_place ? grad_at(group * rows_all + tile * rows, panel * width, tap_at(tap)) : nullptr;
      float* to = in_place ? reinterpret_cast<float*>(in_grad)
                           : sums.get() + (product * row_tiles + tile) * rows * width;
      const int64_t step = in_place ? grad_.sample : width;
      if (blocks) {
        blocks->multiply(rows, vectors, a + start, b, segments.data(), length, to, step, accumulate);
      } else {
        t.multiply(pairs, count, vectors, a + start, a_step, b, segments.data(), length, to, step, accumulate);
      }
    }
  }

  // The tap's index along each dimension.
  Int3 tap_at(int64_t tap) const {
    const int64_t last = taps / (s.kernel[0] * s.kernel[1]);
    return {tap / last / s.kernel[1], tap / last % s.kernel[1], tap % last};
  }

  void find_segments(int64_t tap, std::vector<Segment>& segments) const {
    segments.clear();
    const Int3 j = tap_at(tap);
    for (int64_t i = first_line; i < last_line; ++i) {
      const int64_t d = i / s.small[1] * s.stride[0] - s.padding[0] + j[0] * s.dilation[0];
      const int64_t h = i % s.small[1] * s.stride[1] - s.padding[1] + j[1] * s.dilation[1];
      if (d < 0 || d >= s.large[0] || h < 0 || h >= s.large[1]) continue;
      const int64_t number = d * s.large[1] + h;
      for (int64_t w = 0; w < s.small[2]; ++w) {
        const int64_t padded = w * s.stride[2] + j[2] * s.dilation[2], column = padded - s.padding[2];
        const int64_t position = (i - first_line) * s.small[2] + w;
        if (lines) {
          const int64_t in_line = padded * s.large_channels * (blocks ? runs : 1);
          const int64_t a = number * runs * line * s.large_channels + in_line;
          segments.push_back({a, position * runs * width, blocks ? runs : length});
        } else if (column >= 0 && column < s.large[2]) {
          const int64_t b = (number * s.large[2] + column) * runs * width;
          segments.push_back({position * runs * rows, b, blocks ? runs : length});
        }
      }
    }
  }

  char* grad_at(int64_t small_channel, int64_t large_channel, const Int3& tap) const {
    const int64_t offset = small_channel * grad_.sample + large_channel * grad_.channel + tap[0] * grad_.step[0] +
                           tap[1] * grad_.step[1] + tap[2] * grad_.step[2];
    return static_cast<char*>(grad_.data) + offset * grad_storage.size;
  }

  void write() const {
    torch::stable::parallel_for(0, s.groups * panels * row_tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tile = i % row_tiles, panel = i / row_tiles % panels, group = i / row_tiles / panels;
        lines || grad_.channel != 1 ? write_elements(group, panel, tile) : write_rows(group, panel, tile);
      }
    });
  }

  const float* sums_of(int64_t group, int64_t panel, int64_t tap, int64_t tile) const {
    return sums.get() + (((group * panels + panel) * taps + tap) * row_tiles + tile) * rows * width;
  }

  void write_rows(int64_t group, int64_t panel, int64_t tile) const {
    const int64_t count = std::min(rows, rows_all - tile * rows);
    const int64_t columns = std::min(width, columns_all - panel * width);
    for (int64_t tap = 0; tap < taps; ++tap) {
      void* to[kMostRows];
      for (int64_t r = 0; r < count; ++r) {
        to[r] = grad_at(group * s.small_channels + tile * rows + r, panel * width, tap_at(tap));
      }
      t.store_rows(grad_storage.element, sums_of(group, panel, tap, tile), to, count, 1, columns, Epilogue{});
    }
  }

  // The same for any layout. Each row is written for all taps, so that its sums stay in the cache.
  void write_elements(int64_t group, int64_t panel, int64_t tile) const {
    const int64_t count = std::min(rows, rows_all - tile * rows);
    const int64_t columns = std::min(width, columns_all - panel * width);
    Scratch<char> converted(taps * width * grad_storage.size);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        void* to = converted.get() + tap * width * grad_storage.size;
        const float* from = sums_of(group, panel, tap, tile) + r * width;
        t.store_rows(grad_storage.element, from, &to, 1, 1, columns, Epilogue{});
      }
      for (int64_t c = 0; c < columns; ++c) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          Int3 j = tap_at(tap);
          const int64_t row = tile * rows + r, column = panel * width + c;
          if (lines) j[2] += row / s.large_channels;
          char* to = lines ? grad_at(group * s.small_channels + column, row % s.large_channels, j)
                           : grad_at(group * s.small_channels + row, column, j);
          const char* from = converted.get() + (tap * width + c) * grad_storage.size;
          grad_storage.size == 4 ? copy<uint32_t>(from, to) : copy<uint16_t>(from, to);
        }
      }
    }
  }

  template <typename T>
  static void copy(const char* from, char* to) {
    *reinterpret_cast<T*>(to) = *reinterpret_cast<const T*>(from);
  }
};

}  // namespace

void conv_weight_grad(Tensor large, Tensor small, Sizes stride, Sizes padding, Sizes dilation, int64_t groups,
                      Tensor grad) {
  const ConvShape shape = make_conv_shape(large, small, kernel_size_of(grad), stride, padding, dilation, groups);
  check_weight(shape, grad);
  STD_TORCH_CHECK(has_adjacent_channels(large) && has_adjacent_channels(small),
                  "conv: large and small must have adjacent channels (channels_last)");
  STD_TORCH_CHECK(grad.scalar_type() == large.scalar_type() || storage_of(grad).element == Element::kFloat,
                  "conv: the dtypes differ: grad must be float32 or have the dtype of large and small");
  if (grad.numel() == 0) return;
  WeightGrad(shape, large, small, grad).run();
}

}  // namespace cpu
}  // namespace fastvgan
