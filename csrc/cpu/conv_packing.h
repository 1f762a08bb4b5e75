// Memory and tile sizes of the packed matrices of convolutions on the CPU.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "conv_tiles.h"
#include "large_pages.h"
#include "storage.h"

namespace fastvgan {
namespace cpu {

// Rows per tile for `count` rows in all. Full tiles are preferred to large ones.
inline int64_t best_rows(int64_t count, int64_t most) {
  int64_t best = std::min(count, most);
  double best_share = 0;
  for (int64_t candidate = best; candidate >= std::min(count, (most + 1) / 2); --candidate) {
    const double share = static_cast<double>(count) / (ceil_divide(count, candidate) * candidate);
    if (share > best_share + 0.005) best = candidate, best_share = share;
  }
  return best;
}

// The same for products of blocks: the larger tile, unless too much of it would be empty.
inline int64_t best_blocks(int64_t count) {
  const int64_t small = ceil_divide(count, kBlock) * kBlock, large = ceil_divide(count, kMostRows) * kMostRows;
  return small * 5 < large * 4 ? kBlock : kMostRows;
}

// Prepares this thread for products of blocks until the end of the scope.
class BlocksScope {
 public:
  explicit BlocksScope(const BlockTiles* blocks) : blocks_(blocks) {
    if (blocks_ != nullptr) blocks_->begin();
  }
  ~BlocksScope() {
    if (blocks_ != nullptr) blocks_->end();
  }
  BlocksScope(const BlocksScope&) = delete;
  BlocksScope& operator=(const BlocksScope&) = delete;

 private:
  const BlockTiles* blocks_;
};

// An uninitialised array, aligned to a cache line.
template <typename T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t size) : data_(allocate(size)) {}
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  static T* allocate(int64_t size) {
    void* data = nullptr;
    if (posix_memalign(&data, 64, std::max<size_t>(64, size * sizeof(T))) != 0) throw std::bad_alloc();
    prefer_large_pages(data, size * sizeof(T));
    return static_cast<T*>(data);
  }
  std::unique_ptr<T, Free> data_;
};

// Whether the channels of a position are adjacent in memory.
inline bool has_adjacent_channels(const torch::stable::Tensor& x) {
  return x.numel() == 0 || x.size(1) == 1 || x.stride(1) == 1;
}

}  // namespace cpu
}  // namespace fastvgan
