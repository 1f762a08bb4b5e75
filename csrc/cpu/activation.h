// The activations on vectors; included as vector.h is.
#pragma once

#include "vector.h"

namespace fastvgan {
namespace FASTVGAN_ISA {

constexpr int kNone = 0, kRelu = 1, kLeakyRelu = 2, kTanh = 3;

template <int act>
FASTVGAN_INLINE Floats activate(Floats z, float leak) {
  if (act == kNone) return z;
  if (act == kRelu) return positive_part(z);
  if (act == kLeakyRelu) return select(z > broadcast(0), z, z * leak);
  return tanh(z);
}

template <int value>
struct Constant {
  static constexpr int kValue = value;
};

// Calls visit with the activation as a type.
template <typename Visit>
FASTVGAN_INLINE void with_activation(int64_t activation, Visit visit) {
  if (activation == kRelu) return visit(Constant<kRelu>{});
  if (activation == kLeakyRelu) return visit(Constant<kLeakyRelu>{});
  if (activation == kTanh) return visit(Constant<kTanh>{});
  visit(Constant<kNone>{});
}

}  // namespace FASTVGAN_ISA
}  // namespace fastvgan
