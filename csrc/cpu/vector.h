// Vectors of floats on the compiler's vector extensions, and conversions from and to storage types.
// Translation units for different instruction sets include this file. Everything is therefore in a namespace of the
// instruction set (FASTVGAN_ISA), and no headers with inline functions are included: the linker keeps one copy of an
// inline function, possibly with instructions that the machine lacks.
#pragma once

#include <stdint.h>
#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "element.h"

#define FASTVGAN_INLINE static inline __attribute__((always_inline))
#define FASTVGAN_MEMBER inline __attribute__((always_inline))

namespace fastvgan {
namespace FASTVGAN_ISA {

constexpr int kWidth = FASTVGAN_WIDTH;

typedef float Floats __attribute__((vector_size(4 * FASTVGAN_WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * FASTVGAN_WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * FASTVGAN_WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * FASTVGAN_WIDTH)));

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Call visit with the element's type.
template <typename Visit>
FASTVGAN_INLINE void with_element(Element element, Visit visit) {
  if (element == Element::kFloat) return visit(float{});
  if (element == Element::kBFloat16) return visit(BFloat16{});
  visit(Float16{});
}

FASTVGAN_INLINE Floats broadcast(float value) { return value - Floats{}; }  // value + 0 would turn -0 into 0
FASTVGAN_INLINE Floats select(Ints condition, Floats yes, Floats no) { return condition ? yes : no; }
// max(0, v); a NaN stays a NaN.
FASTVGAN_INLINE Floats positive_part(Floats v) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps(_mm512_setzero_ps(), (__m512)v);  // returns the second operand if one is a NaN
#elif defined(__AVX2__)
  return (Floats)_mm256_max_ps(_mm256_setzero_ps(), (__m256)v);
#else
  return v < 0.f ? Floats{} : v;
#endif
}

// x clamped to [-limit, limit]; a NaN stays a NaN.
FASTVGAN_INLINE Floats clamp(Floats x, float limit) {
#if defined(__AVX512F__)
  const Floats above = (Floats)_mm512_max_ps((__m512)broadcast(-limit), (__m512)x);
  return (Floats)_mm512_min_ps((__m512)broadcast(limit), (__m512)above);
#elif defined(__AVX2__)
  return (Floats)_mm256_min_ps((__m256)broadcast(limit), _mm256_max_ps((__m256)broadcast(-limit), (__m256)x));
#else
  return select(x < broadcast(-limit), broadcast(-limit), select(x > broadcast(limit), broadcast(limit), x));
#endif
}

template <typename V, typename P>
FASTVGAN_INLINE V load_bits(const P* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

FASTVGAN_INLINE Floats load(const float* from) { return load_bits<Floats>(from); }
FASTVGAN_INLINE void store(float* to, Floats v) { __builtin_memcpy(to, &v, sizeof(v)); }

// GCC compiles the general form to several instructions.
FASTVGAN_INLINE Words widen(Halves v) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)v);
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, Words);
#endif
}

FASTVGAN_INLINE Floats load(const BFloat16* from) { return (Floats)(widen(load_bits<Halves>(from)) << 16); }

#if defined(__AVX512BF16__)
// The instruction treats numbers below 2^-126 as zero.
FASTVGAN_INLINE void store(BFloat16* to, Floats v) {
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)v);
  __builtin_memcpy(to, &halves, sizeof(halves));
}
#else
// Round to nearest even. A NaN keeps its upper bits and becomes quiet; rounding could turn it into infinity.
FASTVGAN_INLINE void store(BFloat16* to, Floats v) {
  const Words bits = (Words)v;
  const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words quiet = (bits >> 16) | 0x40;
  const Halves halves = __builtin_convertvector(v != v ? quiet : rounded, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
}
#endif

#if defined(__AVX512F__)  // forms with a mask: without one, GCC 12 warns about its header
FASTVGAN_INLINE Floats load(const Float16* from) {
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(from));
}
FASTVGAN_INLINE void store(Float16* to, Floats v) {
  const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(to, &halves, sizeof(halves));
}
#elif defined(__F16C__)
FASTVGAN_INLINE Floats load(const Float16* from) { return (Floats)_mm256_cvtph_ps(load_bits<__m128i>(from)); }
FASTVGAN_INLINE void store(Float16* to, Floats v) {
  const __m128i halves = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __builtin_memcpy(to, &halves, sizeof(halves));
}
#else
// Source of both: Fabian Giesen, "Half to float done quic" and "float->half variants" (public domain).
FASTVGAN_INLINE Floats load(const Float16* from) {
  const Words bits = widen(load_bits<Halves>(from));
  const Floats magnitude = (Floats)((bits & 0x7fff) << 13) * 0x1p112f;  // also right for subnormals
  const Words special = (Words)(magnitude >= broadcast(0x1p16f)) & 0x7f800000;  // infinity and NaN
  return (Floats)((Words)magnitude | special | ((bits & 0x8000) << 16));
}
FASTVGAN_INLINE void store(Float16* to, Floats v) {
  const Words sign = (Words)v & 0x80000000;
  const Words bits = (Words)v ^ sign;
  // Adding 1/2 makes the addition itself round a subnormal half into the lowest bits of the sum.
  const Words subnormal = (Words)((Floats)bits + 0.5f) - 0x3f000000;
  const Words normal = (bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13;
  const Words finite_mask = (Words)(bits < (Words{} + 0x47800000));
  const Words small = (Words)(bits < (Words{} + 0x38800000));
  const Words nan = (Words)(bits > (Words{} + 0x7f800000));
  const Words special = 0x7c00 | (nan & 0x200);
  const Words finite = (small & subnormal) | (~small & normal);
  const Words half = (finite_mask & finite) | (~finite_mask & special) | (sign >> 16);
  const Halves halves = __builtin_convertvector(half, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
}
#endif

// Store past the caches, if the instruction set can, to memory aligned to the vector.
#if defined(__AVX2__)
FASTVGAN_INLINE void stream_bits(void* to, __m128i v) { _mm_stream_si128((__m128i*)to, v); }
FASTVGAN_INLINE void stream_bits(void* to, __m256i v) { _mm256_stream_si256((__m256i*)to, v); }
#if defined(__AVX512F__)
FASTVGAN_INLINE void stream_bits(void* to, __m512i v) { _mm512_stream_si512((__m512i*)to, v); }
#endif
template <typename T>
FASTVGAN_INLINE void stream(T* to, Floats v) {
  typedef long long Bits __attribute__((vector_size(sizeof(T) * FASTVGAN_WIDTH), may_alias));
  alignas(64) T values[kWidth];
  store(values, v);
  stream_bits(to, *(Bits*)values);
}
FASTVGAN_INLINE void end_streaming() { _mm_sfence(); }
#else
template <typename T>
FASTVGAN_INLINE void stream(T* to, Floats v) {
  store(to, v);
}
FASTVGAN_INLINE void end_streaming() {}
#endif

// Load `count` values, and `fill` in the other lanes; store the first `count` lanes.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
FASTVGAN_INLINE __mmask16 first(int64_t count) { return (__mmask16)((1u << count) - 1); }
FASTVGAN_INLINE __m256i load_halves(const void* from, int64_t count, uint16_t fill) {
  return _mm256_mask_loadu_epi16(_mm256_set1_epi16((short)fill), first(count), from);
}
FASTVGAN_INLINE Floats load_first(const float* from, int64_t count, float fill) {
  return (Floats)_mm512_mask_loadu_ps((__m512)broadcast(fill), first(count), from);
}
FASTVGAN_INLINE Floats load_first(const BFloat16* from, int64_t count, BFloat16 fill) {
  return (Floats)(widen((Halves)load_halves(from, count, fill.bits)) << 16);
}
FASTVGAN_INLINE Floats load_first(const Float16* from, int64_t count, Float16 fill) {
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, load_halves(from, count, fill.bits));
}
FASTVGAN_INLINE void store_first(float* to, int64_t count, Floats v) {
  _mm512_mask_storeu_ps(to, first(count), (__m512)v);
}
template <typename T>
FASTVGAN_INLINE void store_first(T* to, int64_t count, Floats v) {
  T buffer[kWidth];
  store(buffer, v);
  _mm256_mask_storeu_epi16(to, first(count), load_bits<__m256i>(buffer));
}
#else
template <typename T>
FASTVGAN_INLINE Floats load_first(const T* from, int64_t count, T fill) {
  T buffer[kWidth];
  for (int i = 0; i < kWidth; ++i) buffer[i] = i < count ? from[i] : fill;
  return load(buffer);
}
template <typename T>
FASTVGAN_INLINE void store_first(T* to, int64_t count, Floats v) {
  T buffer[kWidth];
  store(buffer, v);
  for (int i = 0; i < count; ++i) to[i] = buffer[i];
}
#endif

// For |x| up to 88. Source: Cephes expf (Moshier).
FASTVGAN_INLINE Floats exp(Floats x) {
  const Floats shifted = x * 1.44269504088896341f + 0x1.8p23f;  // rounds to an integer in the lowest bits
  const Floats n = shifted - 0x1.8p23f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  return p * (Floats)(((Ints)shifted + 127) << 23);
}

// Source: Cephes tanhf (Moshier): a polynomial near 0, elsewhere 1 - 2 / (exp(2|x|) + 1).
FASTVGAN_INLINE Floats tanh(Floats x) {
  const Floats magnitude = (Floats)((Ints)x & 0x7fffffff);
  const Floats clamped = clamp(magnitude, 10.f);
  const Floats large = 1.f - 2.f / (exp(clamped + clamped) + 1.f);
  const Floats s = x * x;
  Floats q = broadcast(-5.70498872745e-3f);
  q = q * s + 2.06390887954e-2f;
  q = q * s - 5.37397155531e-2f;
  q = q * s + 1.33314422036e-1f;
  q = q * s - 3.33332819422e-1f;
  const Floats small = q * s * x + x;
  const Floats signed_large = (Floats)((Ints)large | ((Ints)x & (Ints)((Words{} + 0x80000000))));
  const Floats result = select(magnitude < broadcast(0.625f), small, signed_large);
  return select(x != x, x, result);
}

// 1 / (1 + exp(-x)) and 1 / (1 + exp(x)), each to a few units in the last place; both are NaN for NaN.
FASTVGAN_INLINE void sigmoids(Floats x, Floats* value, Floats* rest) {
  const Floats small = exp(-clamp((Floats)((Ints)x & 0x7fffffff), 88.f));
  const Floats large_share = 1.f / (1.f + small), small_share = small * large_share;
  const Ints is_negative = x < broadcast(0);
  *value = select(is_negative, small_share, large_share);
  *rest = select(is_negative, large_share, small_share);
}

// The cumulative distribution function of the standard normal distribution at x, and exp(-x * x / 2).
// With u = |x|, the tail beyond u is exp(-u * u / 2) * t * P(t), t = 1 / (1 + 0.26375 u), in the form of Abramowitz and
// Stegun's formula 26.2.17. This P has degree 8 and the least relative error, 1.5e-8, for u up to 14.
FASTVGAN_INLINE void normal_distribution(Floats x, Floats* value, Floats* bell) {
  const Floats u = clamp((Floats)((Ints)x & 0x7fffffff), 14.f);
  *bell = exp(clamp(x * x * 0.5f, 88.f) * -1.f);
  const Floats t = 1.f / (1.f + 0.26375f * u);
  Floats p = broadcast(3.078744560e-2f);
  p = p * t - 1.465174705e-1f;
  p = p * t + 2.261828631e-1f;
  p = p * t - 1.246793345e-1f;
  p = p * t + 1.433892250e-1f;
  p = p * t + 5.815467238e-2f;
  p = p * t + 1.027416810e-1f;
  p = p * t + 1.046953350e-1f;
  p = p * t + 1.052455753e-1f;
  const Floats tail = *bell * (t * p);
  *value = select(x < broadcast(0), tail, 1.f - tail);
}

}  // namespace FASTVGAN_ISA
}  // namespace fastvgan
