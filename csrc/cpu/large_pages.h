// Large pages under large blocks of memory.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>

namespace fastvgan {
namespace cpu {

// Asks the system for large pages under memory that has not been written yet; a hint, whatever comes of it.
//
// malloc takes large blocks fresh from the system and gives them back at once. Each 4 KiB of such a block then cost a
// page fault, which together take several times as long as a pass over the memory; a large page is 2 MiB.
void prefer_large_pages(void* memory, size_t bytes);

// The same under a dense tensor.
void prefer_large_pages(const torch::stable::Tensor& fresh);

// An uninitialised tensor of x's shape, strides and dtype, on large pages if it is large.
torch::stable::Tensor output_like(const torch::stable::Tensor& x);

}  // namespace cpu
}  // namespace fastvgan
