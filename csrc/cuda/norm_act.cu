// norm_act for NVIDIA GPUs.
//
// Reductions have two stages and no atomics, so that results do not depend on the order in which blocks run: blocks
// write partial results, and a second kernel merges those of a channel. Data has one of two forms, as on the CPU:
// columns (channels innermost; a row is a multiple of C values, so that few channels fill a block too) and runs
// (channels outermost).
// Every thread reads vectors of up to 16 bytes if sizes and addresses allow it. All threads take the same branch for
// the activation, which costs memory-bound kernels nothing; as a template parameter it would multiply their number.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../norm_act.h"
#include "norm_act_device.cuh"

namespace fastvgan {
namespace cuda {
namespace {

using torch::headeronly::ScalarType;

constexpr int kThreads = 256;

// The function is looked up, not linked: a file linked to libtorch_cuda would not load with a torch without CUDA.
cudaStream_t current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const Function function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Function>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  STD_TORCH_CHECK(function != nullptr, "norm_act: this torch has no CUDA streams; install a torch with CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(function(device, &stream) == AOTI_TORCH_SUCCESS, "norm_act: no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

void check(cudaError_t error) { STD_TORCH_CHECK(error == cudaSuccess, "norm_act: ", cudaGetErrorString(error)); }

int multiprocessors(int device) {
  int count = 0;
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// How a grid covers columns. Block x is a tile of columns, block y a block of rows; the same for threads.
struct Columns {
  int64_t numel, channels, width, rows;  // the last row may be short
  int threads_x;                         // each for V columns
  int64_t rows_per_block;
};

template <typename Gather, typename T, int V>
__global__ void __launch_bounds__(kThreads)
    reduce_columns_kernel(Gather gather, Columns grid, Vectors vectors, typename Gather::Result* partial) {
  using Result = typename Gather::Result;
  __shared__ Result shared[kThreads];  // [threads_y][threads_x]
  const int tx = threadIdx.x % grid.threads_x, ty = threadIdx.x / grid.threads_x;
  const int threads_y = kThreads / grid.threads_x;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * grid.threads_x + tx) * V;
  const bool inside = column < grid.width && ty < threads_y;
  typename Gather::State state{};
  Channel channels[V];
  if (inside) {
    if (Gather::kNeedsChannel) {
#pragma unroll
      for (int v = 0; v < V; ++v) channels[v] = vectors.at((column + v) % grid.channels);
    }
    const int64_t first = blockIdx.y * grid.rows_per_block;
    const int64_t last = min(grid.rows, first + grid.rows_per_block);
#pragma unroll 4
    for (int64_t row = first + ty; row < last; row += threads_y) {
      const int64_t offset = row * grid.width + column;
      if (offset < grid.numel) gather.add(state, offset, channels);
    }
  }
  const int64_t tile_columns = min(static_cast<int64_t>(grid.threads_x) * V,
                                   grid.width - static_cast<int64_t>(blockIdx.x) * grid.threads_x * V);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    __syncthreads();
    shared[threadIdx.x] = inside ? gather.result(state, v) : Result{};
    __syncthreads();
    // Threads with the same tx hold the same columns. The tree's shape depends on that of the block alone.
    for (int reach = 1; reach < threads_y; reach *= 2) {
      if (ty % (2 * reach) == 0 && ty + reach < threads_y) {
        shared[threadIdx.x].merge(shared[threadIdx.x + reach * grid.threads_x]);
      }
      __syncthreads();
    }
    if (ty == 0 && tx * V < tile_columns) partial[blockIdx.y * grid.width + column + v] = shared[tx];
  }
}

// How a grid covers runs. Block x is a channel, block y a part of its values, which are numbered through all samples.
struct Runs {
  int64_t channels, inner, per_channel, part;
};

template <typename Gather, typename T, int V, typename Index>
__global__ void __launch_bounds__(kThreads)
    reduce_runs_kernel(Gather gather, Runs grid, Vectors vectors, typename Gather::Result* partial) {
  using Result = typename Gather::Result;
  __shared__ Result shared[kThreads];
  typename Gather::State state{};
  const int64_t c = blockIdx.x;
  Channel channels[V];
  if (Gather::kNeedsChannel) {
    const Channel channel = vectors.at(c);
#pragma unroll
    for (int v = 0; v < V; ++v) channels[v] = channel;
  }
  const int64_t first = blockIdx.y * grid.part, last = min(grid.per_channel, first + grid.part);
  const Index inner = static_cast<Index>(grid.inner);
#pragma unroll 4
  for (int64_t i = first + threadIdx.x * V; i < last; i += kThreads * V) {
    const Index sample = static_cast<Index>(i) / inner;
    const int64_t within = static_cast<Index>(i) - sample * inner;
    gather.add(state, (static_cast<int64_t>(sample) * grid.channels + c) * grid.inner + within, channels);
  }
  Result own = gather.result(state, 0);
#pragma unroll
  for (int v = 1; v < V; ++v) own.merge(gather.result(state, v));
  shared[threadIdx.x] = own;
  __syncthreads();
  for (int reach = kThreads / 2; reach > 0; reach /= 2) {
    if (threadIdx.x < reach) shared[threadIdx.x].merge(shared[threadIdx.x + reach]);
    __syncthreads();
  }
  if (threadIdx.x == 0) partial[blockIdx.y * grid.channels + c] = shared[0];
}

// Merge the partial results of a channel, which is block x. partial is [blocks][width]; a channel has width / channels
// columns.
template <typename Result, typename Finish>
__global__ void __launch_bounds__(kThreads)
    merge_partials_kernel(const Result* partial, int64_t blocks, int64_t width, int64_t channels, Finish finish) {
  __shared__ Result shared[kThreads];
  const int64_t c = blockIdx.x, per_row = width / channels, items = blocks * per_row;
  Result own{};
  for (int64_t i = threadIdx.x; i < items; i += blockDim.x) {
    own.merge(partial[i / per_row * width + i % per_row * channels + c]);  // [blocks, width / channels]
  }
  shared[threadIdx.x] = own;
  __syncthreads();
  for (int reach = blockDim.x / 2; reach > 0; reach /= 2) {
    if (threadIdx.x < reach) shared[threadIdx.x].merge(shared[threadIdx.x + reach]);
    __syncthreads();
  }
  if (threadIdx.x == 0) finish(shared[0], c);
}

template <typename Visit, int V>
__global__ void __launch_bounds__(kThreads) visit_columns_kernel(Visit visit, Columns grid, Vectors vectors) {
  const int tx = threadIdx.x % grid.threads_x, ty = threadIdx.x / grid.threads_x;
  const int threads_y = kThreads / grid.threads_x;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * grid.threads_x + tx) * V;
  if (column >= grid.width || ty >= threads_y) return;
  Channel channels[V];
#pragma unroll
  for (int v = 0; v < V; ++v) channels[v] = vectors.at((column + v) % grid.channels);
  const int64_t first = blockIdx.y * grid.rows_per_block, last = min(grid.rows, first + grid.rows_per_block);
#pragma unroll 1
  for (int64_t row = first + ty; row < last; row += threads_y) {
    const int64_t offset = row * grid.width + column;
    if (offset < grid.numel) visit(offset, channels);
  }
}

template <typename Visit, int V, typename Index>
__global__ void __launch_bounds__(kThreads) visit_runs_kernel(Visit visit, Runs grid, int64_t numel, Vectors vectors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * V;
  const Index inner = static_cast<Index>(grid.inner), count = static_cast<Index>(grid.channels);
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V; i < numel; i += step) {
    const Channel channel = vectors.at(static_cast<Index>(i) / inner % count);
    Channel channels[V];
#pragma unroll
    for (int v = 0; v < V; ++v) channels[v] = channel;
    visit(i, channels);
  }
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One call's shape, device and launch sizes.
struct Launch {
  Layout layout;
  int vector;  // values that a thread loads at once
  int64_t wanted_blocks;
  cudaStream_t stream;
  bool columns() const { return layout.inner == 1; }
  bool small() const { return layout.numel < (int64_t{1} << 31); }

  Columns column_grid(int64_t rows_at_least) const {
    Columns grid{layout.numel, layout.channels, layout.channels, 0, 1, 0};
    // With few channels, several rows become one, so that neighbouring threads read neighbouring values.
    while (grid.width % vector != 0 || grid.width < 32 * vector) grid.width *= 2;
    grid.rows = ceil_divide(layout.numel, grid.width);
    while (grid.threads_x < kThreads && grid.threads_x * vector < grid.width) grid.threads_x *= 2;
    const int64_t tiles = ceil_divide(grid.width, grid.threads_x * vector);
    const int64_t blocks = std::max<int64_t>(1, wanted_blocks / tiles);
    const int64_t threads_y = kThreads / grid.threads_x;
    grid.rows_per_block = std::max(ceil_divide(grid.rows, blocks), rows_at_least * threads_y);
    grid.rows_per_block = std::max(grid.rows_per_block, ceil_divide(grid.rows, 65535));
    return grid;
  }
  dim3 blocks(const Columns& grid) const {
    return dim3(ceil_divide(grid.width, grid.threads_x * vector), ceil_divide(grid.rows, grid.rows_per_block));
  }
  Runs run_grid() const {
    Runs grid{layout.channels, layout.inner, layout.per_channel(), 0};
    const int64_t parts = std::min<int64_t>(65535, std::max<int64_t>(1, wanted_blocks / layout.channels));
    grid.part = std::max<int64_t>(ceil_divide(grid.per_channel, parts), 4 * kThreads * vector);
    grid.part = ceil_divide(grid.part, vector) * vector;
    return grid;
  }
};

bool is_aligned(const void* pointer, int64_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

Launch launch_for(const Layout& layout, const Tensor& x, std::initializer_list<const void*> pointers) {
  Launch launch{layout, 1, 0, current_stream(x.get_device_index())};
  const int64_t size = static_cast<int64_t>(x.element_size());
  const int full = static_cast<int>(16 / size);
  bool whole = launch.columns() ? layout.numel % full == 0 : layout.inner % full == 0;
  for (const void* pointer : pointers) whole = whole && is_aligned(pointer, 16);
  launch.vector = whole ? full : 1;
  launch.wanted_blocks = 8 * multiprocessors(x.get_device_index());
  return launch;
}

Tensor floats(const Tensor& x, int64_t size) { return torch::stable::new_empty(x, {size}, ScalarType::Float); }

template <typename T, int V, typename Gather, typename Finish>
void reduce(const Launch& launch, const Tensor& x, const Vectors& vectors, const Gather& gather, const Finish& finish) {
  using Result = typename Gather::Result;
  constexpr int64_t kFloats = sizeof(Result) / sizeof(float);
  const Columns columns = launch.column_grid(8);
  const Runs runs = launch.run_grid();
  const dim3 grid = launch.columns() ? launch.blocks(columns)
                                     : dim3(runs.channels, ceil_divide(runs.per_channel, runs.part));
  const int64_t width = launch.columns() ? columns.width : runs.channels, blocks = grid.y;
  const Tensor buffer = floats(x, blocks * width * kFloats);
  Result* partial = static_cast<Result*>(buffer.mutable_data_ptr());
  if (launch.columns()) {
    reduce_columns_kernel<Gather, T, V><<<grid, kThreads, 0, launch.stream>>>(gather, columns, vectors, partial);
  } else if (launch.small()) {
    reduce_runs_kernel<Gather, T, V, uint32_t><<<grid, kThreads, 0, launch.stream>>>(gather, runs, vectors, partial);
  } else {
    reduce_runs_kernel<Gather, T, V, uint64_t><<<grid, kThreads, 0, launch.stream>>>(gather, runs, vectors, partial);
  }
  check(cudaGetLastError());
  const int64_t channels = launch.layout.channels;
  const int threads = blocks * (width / channels) > 128 ? kThreads : 32;
  merge_partials_kernel<<<channels, threads, 0, launch.stream>>>(partial, blocks, width, channels, finish);
  check(cudaGetLastError());
}

template <typename Visit, int V>
void visit_all(const Launch& launch, const Visit& visit, const Vectors& vectors) {
  if (launch.columns()) {
    const Columns grid = launch.column_grid(4);
    visit_columns_kernel<Visit, V><<<launch.blocks(grid), kThreads, 0, launch.stream>>>(visit, grid, vectors);
  } else {
    const int64_t numel = launch.layout.numel;
    const int64_t blocks = std::min(ceil_divide(numel, kThreads * V), 4 * launch.wanted_blocks);
    const Runs grid = launch.run_grid();
    if (launch.small()) {
      visit_runs_kernel<Visit, V, uint32_t><<<blocks, kThreads, 0, launch.stream>>>(visit, grid, numel, vectors);
    } else {
      visit_runs_kernel<Visit, V, uint64_t><<<blocks, kThreads, 0, launch.stream>>>(visit, grid, numel, vectors);
    }
  }
  check(cudaGetLastError());
}

template <int value>
struct Constant {
  static constexpr int kValue = value;
};

template <typename Visit>
void with_type(ScalarType dtype, const Visit& visit) {
  if (dtype == ScalarType::Float) return visit(float{});
  if (dtype == ScalarType::BFloat16) return visit(__nv_bfloat16{});
  visit(__half{});
}

// Call visit(T{}, Constant<V>{}); V is a full vector or 1.
template <typename Visit>
void with_type_and_vector(ScalarType dtype, int vector, const Visit& visit) {
  with_type(dtype, [&](auto type) {
    constexpr int kFull = 16 / sizeof(type);
    if (vector == 1) return visit(type, Constant<1>{});
    visit(type, Constant<kFull>{});
  });
}

const float* values(const OptionalTensor& t) {
  return t.has_value() ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
}
float* writable(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

void zero(const Tensor& t, cudaStream_t stream) {
  if (t.numel() > 0) check(cudaMemsetAsync(t.mutable_data_ptr(), 0, t.numel() * sizeof(float), stream));
}

}  // namespace

ThreeTensors norm_act(Tensor x, OptionalTensor weight, OptionalTensor bias, OptionalTensor mean, OptionalTensor var,
                      double eps, int64_t activation, double slope) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Layout layout = layout_of(x);
  check_activation(activation);
  check_parameter(weight, x, "weight");
  check_parameter(bias, x, "bias");
  check_parameter(mean, x, "mean");
  check_parameter(var, x, "var");
  const bool training = !mean.has_value();
  STD_TORCH_CHECK(training == !var.has_value(), "norm_act: pass both mean and var, or neither");
  const Tensor y = torch::stable::empty_like(x);
  const Tensor batch_mean = floats(x, training ? layout.channels : 0);
  const Tensor batch_var = floats(x, training ? layout.channels : 0);
  const void* from = x.const_data_ptr();
  void* to = y.mutable_data_ptr();
  if (layout.numel == 0) {
    zero(batch_mean, current_stream(x.get_device_index()));
    zero(batch_var, current_stream(x.get_device_index()));
    return {y, batch_mean, batch_var};
  }
  const Launch launch = launch_for(layout, x, {from, to});
  Vectors vectors{values(weight), values(bias), values(mean), values(var), nullptr, nullptr, static_cast<float>(eps)};
  const ActivationFunction function{static_cast<int>(activation), static_cast<float>(slope)};
  with_type_and_vector(x.scalar_type(), launch.vector, [&](auto type, auto vector) {
    using T = decltype(type);
    constexpr int V = decltype(vector)::kValue;
    const T* x_values = static_cast<const T*>(from);
    if (training) {
      const FinishMoments finish{writable(batch_mean), writable(batch_var)};
      reduce<T, V>(launch, x, vectors, GatherMoments<T, V>{x_values}, finish);
      vectors.mean = writable(batch_mean);
      vectors.var = writable(batch_var);
    }
    visit_all<Apply<T, V>, V>(launch, {x_values, static_cast<T*>(to), function}, vectors);
  });
  return {y, batch_mean, batch_var};
}

ThreeTensors norm_act_backward(Tensor dy, Tensor x, OptionalTensor weight, OptionalTensor bias, Tensor mean, Tensor var,
                               bool training, double eps, int64_t activation, double slope) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Layout layout = layout_of(x);
  check_like(dy, x, "dy");
  check_activation(activation);
  check_parameter(weight, x, "weight");
  check_parameter(bias, x, "bias");
  check_parameter(mean, x, "mean");
  check_parameter(var, x, "var");
  const Tensor dx = torch::stable::empty_like(x);
  const Tensor dweight = floats(x, layout.channels), dbias = floats(x, layout.channels);
  if (layout.numel == 0) {
    zero(dweight, current_stream(x.get_device_index()));
    zero(dbias, current_stream(x.get_device_index()));
    return {dx, dweight, dbias};
  }
  const Tensor coefficients = floats(x, 2 * layout.channels);
  float *constant = writable(coefficients), *slopes = constant + layout.channels;
  const void *incoming = dy.const_data_ptr(), *from = x.const_data_ptr();
  void* to = dx.mutable_data_ptr();
  const Launch launch = launch_for(layout, x, {incoming, from, to});
  Vectors vectors{values(weight), values(bias), values(mean), values(var), nullptr, nullptr, static_cast<float>(eps)};
  const ActivationFunction function{static_cast<int>(activation), static_cast<float>(slope)};
  const FinishSums finish{
      writable(dweight), writable(dbias), constant, slopes, vectors, static_cast<double>(layout.per_channel())};
  with_type_and_vector(x.scalar_type(), launch.vector, [&](auto type, auto vector) {
    using T = decltype(type);
    constexpr int V = decltype(vector)::kValue;
    const T *dy_values = static_cast<const T*>(incoming), *x_values = static_cast<const T*>(from);
    reduce<T, V>(launch, x, vectors, GatherSums<T, V>{dy_values, x_values, function}, finish);
    if (training) {
      vectors.constant = constant;
      vectors.slope = slopes;
    }
    visit_all<Gradient<T, V>, V>(launch, {dy_values, x_values, static_cast<T*>(to), function}, vectors);
  });
  return {dx, dweight, dbias};
}

}  // namespace cuda
}  // namespace fastvgan
