// Large pages for large blocks of memory.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>

namespace fastvgan {
namespace cpu {

// Ask the system for large pages for memory that has not been written yet. A hint: failures are ignored.
//
// malloc gets each large block fresh from the system and returns it at once, so that every 4 KiB of a new block cost a
// page fault. Together, these take several times as long as a pass over the memory. A large page has 2 MiB.
void prefer_large_pages(void* memory, size_t bytes);

// The same for a dense tensor.
void prefer_large_pages(const torch::stable::Tensor& fresh);

// An uninitialised tensor of x's shape, strides and dtype, on large pages if it is large.
torch::stable::Tensor output_like(const torch::stable::Tensor& x);

}  // namespace cpu
}  // namespace fastvgan
