#include "large_pages.h"

#include <torch/csrc/stable/ops.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

namespace fastvgan {
namespace cpu {

using torch::stable::Tensor;

#if defined(__linux__) && defined(MADV_HUGEPAGE)
void prefer_large_pages(void* memory, size_t bytes) {
  constexpr uintptr_t kLargePage = uintptr_t{2} << 20;
  if (bytes < 2 * kLargePage) return;  // may not contain a whole large page
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  // Only whole large pages inside the block: neighbouring memory has other owners.
  const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (begin + bytes) / kLargePage * kLargePage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}
#else
void prefer_large_pages(void*, size_t) {}
#endif

void prefer_large_pages(const Tensor& fresh) {
  prefer_large_pages(fresh.mutable_data_ptr(), static_cast<size_t>(fresh.numel()) * fresh.element_size());
}

Tensor output_like(const Tensor& x) {
  Tensor y = torch::stable::empty_like(x);
  prefer_large_pages(y);
  return y;
}

}  // namespace cpu
}  // namespace fastvgan
