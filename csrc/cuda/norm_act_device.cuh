// Device code of norm_act: the terms that its kernels add up, and the elementwise passes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "../norm_act.h"

namespace fastvgan {
namespace cuda {
namespace {

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float to_float(__half v) { return __half2float(v); }
template <typename T>
__device__ T from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half from_float<__half>(float v) {
  return __float2half_rn(v);
}

template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T values[V];
};

template <typename T, int V>
__device__ inline Pack<T, V> load(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

struct ActivationFunction {
  int kind;
  float leak;
  __device__ float value(float z) const {
    if (kind == kRelu) return z < 0 ? 0.f : z;  // a NaN stays a NaN
    if (kind == kLeakyRelu) return z > 0 ? z : z * leak;
    if (kind == kTanh) return tanhf(z);
    if (kind == kSilu) return z * sigmoid(z);
    return kind == kGelu ? z * distribution(z) : z;
  }
  __device__ float gradient(float dy, float z) const {
    if (kind == kRelu) return z <= 0 ? 0.f : dy;
    if (kind == kLeakyRelu) return z > 0 ? dy : dy * leak;
    if (kind == kTanh) {
      const float t = tanhf(z);
      return dy * (1 - t * t);
    }
    if (kind == kSilu) return dy * (sigmoid(z) * (1 + z * sigmoid(-z)));
    if (kind != kGelu) return dy;
    return dy * (distribution(z) + z * expf(-0.5f * z * z) * 0.398942280401432678f);  // 1 / sqrt(2 pi)
  }
  __device__ static float sigmoid(float z) { return 1 / (1 + expf(-z)); }
  // That of the standard normal distribution. 1 + erff(z) would lose digits near 0.
  __device__ static float distribution(float z) { return 0.5f * erfcf(z * -0.707106781186547524f); }
};

// z = (x - mean) * scale + shift, and dx = scale * (g - constant - (x - mean) * slope).
struct Channel {
  float mean, scale, shift, constant, slope;
};

// (C,) per pointer; weight and bias may be null, constant and slope are null in forward and in evaluation.
struct Vectors {
  const float *weight, *bias, *mean, *var, *constant, *slope;
  float eps;
  __device__ float inverse(int64_t c) const { return 1.f / sqrtf(var[c] + eps); }
  __device__ Channel at(int64_t c) const {
    return {mean[c], (weight ? weight[c] : 1.f) * inverse(c), bias ? bias[c] : 0.f, constant ? constant[c] : 0.f,
            slope ? slope[c] : 0.f};
  }
};

// Mean and sum of squared deviations of `count` values. Without initialisers, which shared memory may not have.
struct Moments {
  float count, mean, deviations;
  __device__ void add(float x, float reciprocal) {  // Welford; the caller increments count and passes 1 / count
    const float d = x - mean;
    mean += d * reciprocal;
    deviations += d * (x - mean);
  }
  __device__ void merge(const Moments& other) {  // Chan, Golub and LeVeque
    const float total = count + other.count;
    if (total == 0) return;
    const float d = other.mean - mean, share = other.count / total;
    mean += d * share;
    deviations += other.deviations + d * d * count * share;
    count = total;
  }
};

struct Sums {
  float g, gx;
  __device__ void merge(const Sums& other) {
    g += other.g;
    gx += other.gx;
  }
};

// The sums of one thread, for its V columns or its run. Welford's method needs one reciprocal per row, not per value.
template <typename T, int V>
struct GatherMoments {
  using Result = Moments;
  const T* x;
  struct State {
    Moments moments[V];
  };
  __device__ void add(State& state, int64_t offset, const Channel*) const {
    const auto pack = load<T, V>(x + offset);  // [V]
    const float count = state.moments[0].count + 1, reciprocal = 1.f / count;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state.moments[v].count = count;
      state.moments[v].add(to_float(pack.values[v]), reciprocal);
    }
  }
  __device__ Result result(const State& state, int v) const { return state.moments[v]; }
  static constexpr bool kNeedsChannel = false;
};

template <typename T, int V>
struct GatherSums {
  using Result = Sums;
  const T *dy, *x;
  ActivationFunction activation;
  struct State {
    Sums sums[V];
  };
  __device__ void add(State& state, int64_t offset, const Channel* channels) const {
    const auto pack = load<T, V>(x + offset), incoming = load<T, V>(dy + offset);  // both [V]
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const Channel& c = channels[v];
      const float d = to_float(pack.values[v]) - c.mean;
      const float g = activation.gradient(to_float(incoming.values[v]), d * c.scale + c.shift);
      state.sums[v].g += g;
      state.sums[v].gx += g * d;
    }
  }
  __device__ Result result(const State& state, int v) const { return state.sums[v]; }
  static constexpr bool kNeedsChannel = true;
};

struct FinishMoments {
  float *mean, *var;
  __device__ void operator()(const Moments& m, int64_t c) const {
    mean[c] = m.mean;
    var[c] = m.deviations / m.count;
  }
};

struct FinishSums {
  float *dweight, *dbias, *constant, *slope;
  Vectors vectors;
  double count;
  __device__ void operator()(const Sums& s, int64_t c) const {
    const float inverse = vectors.inverse(c);
    dweight[c] = s.gx * inverse;
    dbias[c] = s.g;
    constant[c] = static_cast<float>(s.g / count);
    slope[c] = static_cast<float>(s.gx * inverse * (inverse / count));
  }
};

template <typename T, int V>
struct Apply {
  const T* x;
  T* y;
  ActivationFunction activation;
  __device__ void operator()(int64_t offset, const Channel* channels) const {
    const auto pack = load<T, V>(x + offset);  // [V]
    Pack<T, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const Channel& c = channels[v];
      const float z = (to_float(pack.values[v]) - c.mean) * c.scale + c.shift;
      out.values[v] = from_float<T>(activation.value(z));
    }
    *reinterpret_cast<Pack<T, V>*>(y + offset) = out;
  }
};

template <typename T, int V>
struct Gradient {
  const T *dy, *x;
  T* dx;
  ActivationFunction activation;
  __device__ void operator()(int64_t offset, const Channel* channels) const {
    const auto pack = load<T, V>(x + offset), incoming = load<T, V>(dy + offset);  // both [V]
    Pack<T, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const Channel& c = channels[v];
      const float d = to_float(pack.values[v]) - c.mean;
      const float g = activation.gradient(to_float(incoming.values[v]), d * c.scale + c.shift);
      // With constant statistics, an infinite x must not make dx NaN.
      const float through = c.slope == 0 ? 0.f : d * c.slope;
      out.values[v] = from_float<T>((g - c.constant - through) * c.scale);
    }
    *reinterpret_cast<Pack<T, V>*>(dx + offset) = out;
  }
};

}  // namespace
}  // namespace cuda
}  // namespace fastvgan
