// The dtype and element size of a tensor.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "element.h"

namespace fastvgan {
namespace cpu {

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Stored {
  Element element;
  int64_t size;  // bytes per element

  template <typename P>
  P* at(P* base, int64_t offset) const {
    return reinterpret_cast<P*>(reinterpret_cast<uintptr_t>(base) + offset * size);
  }
};

inline Stored storage_of(const torch::stable::Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float: return {Element::kFloat, 4};
    case ScalarType::BFloat16: return {Element::kBFloat16, 2};
    case ScalarType::Half: return {Element::kFloat16, 2};
    default: STD_TORCH_CHECK(false, "tensors must be float32, bfloat16 or float16");
  }
}

}  // namespace cpu
}  // namespace fastvgan
