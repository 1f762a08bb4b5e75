// The activations on vectors. Include it only where vector.h is allowed.
#pragma once

#include "vector.h"

namespace fastvgan {
namespace FASTVGAN_ISA {

constexpr int kNone = 0, kRelu = 1, kLeakyRelu = 2, kTanh = 3, kSilu = 4, kGelu = 5;

template <int act>
FASTVGAN_INLINE Floats activate(Floats z, float leak) {
  if (act == kNone) return z;
  if (act == kRelu) return positive_part(z);
  if (act == kLeakyRelu) return select(z > broadcast(0), z, z * leak);
  if (act == kTanh) return tanh(z);
  Floats share, rest;
  act == kSilu ? sigmoids(z, &share, &rest) : normal_distribution(z, &share, &rest);
  return z * share;
}

template <int value>
struct Constant {
  static constexpr int kValue = value;
};

// Call visit with the activation as a type, for the four activations that convolutions compute.
template <typename Visit>
FASTVGAN_INLINE void with_activation(int64_t activation, Visit visit) {
  if (activation == kRelu) return visit(Constant<kRelu>{});
  if (activation == kLeakyRelu) return visit(Constant<kLeakyRelu>{});
  if (activation == kTanh) return visit(Constant<kTanh>{});
  visit(Constant<kNone>{});
}

// The same for all activations, which norm_act computes.
template <typename Visit>
FASTVGAN_INLINE void with_any_activation(int64_t activation, Visit visit) {
  if (activation == kSilu) return visit(Constant<kSilu>{});
  if (activation == kGelu) return visit(Constant<kGelu>{});
  with_activation(activation, visit);
}

}  // namespace FASTVGAN_ISA
}  // namespace fastvgan
