// The pass on an NVIDIA GPU without Triton: weightscale_fast::layer_sums_cuda. Python defines the schema
// (weightscale_fast/ops/register.py); ../plan.h describes the tables.
//
// Stage 1 has one block per chunk. It reads each weight once, in 16-byte loads, into K partial sums; the same thread
// writes prev <- cur. Stage 2 has one block per sum of a layer, which adds the partial sums of the layer's chunks. If
// `rwc` is not empty, it has one more block per layer, for the ratio.
// A float32 lane adds at most kChunk / (kThreads * kLanes) = 16 values before float64. float64 weights stay in float64.
// Squares are formed and added in float64: in float32, the square of a step below 1e-19 is zero.
// The plan fixes the order of every addition and there are no atomics, so the same weights give the same bits.
// For n weights of s bytes each, the pass reads 2 n s bytes and writes n s bytes.
//
// The file uses the stable ABI, gets the stream as an argument and links the CUDA runtime statically. So the extension
// that contains it also loads on a torch without CUDA.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "../plan.h"

namespace weightscale_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // 16-byte loads of each stream that a thread has in flight
constexpr int kLanes = 4;   // independent sums of a thread

// Stage 2 uses more threads if a layer has many chunks: its time is that of its loads, and more threads have more loads
// in flight. A small block starts sooner.
constexpr int kFewThreads = 32, kManyThreads = 1024;
constexpr int64_t kFewChunks = 64, kManyChunks = 1000;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(__half x) { return __half2float(x); }

template <typename T>
using Wide = decltype(widen(T{}));

// The larger of two absolute values. As integers, their bits have the values' order, and a NaN is above them all.
__device__ inline float larger(float a, float b) { return __int_as_float(max(__float_as_int(a), __float_as_int(b))); }
__device__ inline double larger(double a, double b) {
  return __longlong_as_double(max(__double_as_longlong(a), __double_as_longlong(b)));
}

// The sums of one thread. Each of the first three has kLanes parts, which are independent and add few values.
template <typename T, bool kRatio, bool kL2>
struct ThreadSums {
  Wide<T> delta_l1[kLanes] = {}, prev_l1[kLanes] = {}, ratio_sum[kLanes] = {};
  int moved = 0;
  double delta_sq = 0.0, prev_sq = 0.0;
  Wide<T> delta_max = 0;

  __device__ void add(int lane, T cur, T prev) {
    const Wide<T> w = widen(cur), p = widen(prev);
    const Wide<T> abs_delta = abs(w - p), abs_prev = abs(p);
    delta_l1[lane] += abs_delta;
    prev_l1[lane] += abs_prev;
    moved += w != p;
    if constexpr (kL2) {
      delta_sq += static_cast<double>(abs_delta) * static_cast<double>(abs_delta);
      prev_sq += static_cast<double>(abs_prev) * static_cast<double>(abs_prev);
      delta_max = larger(delta_max, abs_delta);
    }
    if constexpr (kRatio) ratio_sum[lane] += abs_delta / abs_prev;
  }
};

template <typename T>
__device__ double add_lanes(const T (&lanes)[kLanes]) {
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < kLanes; ++i) sum += static_cast<double>(lanes[i]);
  return sum;
}

// Two partial sums as one; or the larger of two partial results.
__device__ inline double join(double a, double b, bool largest) { return largest ? larger_or_nan(a, b) : a + b; }

// Joins the `value` of each thread of the block in a fixed order. Only thread 0 gets the result.
template <int kBlock>
__device__ double over_block(double value, double* shared, bool largest = false) {  // shared [kBlock / 32]
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_down_sync(0xffffffffu, value, step), largest);
  __syncthreads();  // the last call's readers are done
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kBlock / 32; ++warp) value = join(value, shared[warp], largest);
  return value;
}

template <typename T, bool kUpdate, bool kRatio, bool kL2>
__global__ void __launch_bounds__(kThreads) chunk_sums_kernel(const int64_t* __restrict__ chunks,  // [3, C]
                                                              int64_t prev_base,
                                                              double* __restrict__ partial,  // [K, C]
                                                              int64_t C) {
  constexpr int kVector = 16 / sizeof(T);  // weights in a 16-byte load
  const int64_t c = blockIdx.x;
  const int64_t cur_address = chunks[kCurAddress * C + c];
  const int64_t prev_address = prev_base + chunks[kPrevOffset * C + c];
  const int n = static_cast<int>(chunks[kLength * C + c]);
  const T* cur = reinterpret_cast<const T*>(cur_address);
  T* prev = reinterpret_cast<T*>(prev_address);
  ThreadSums<T, kRatio, kL2> sums;

  const auto add_singly = [&](int begin, int end) {
    for (int first = begin + threadIdx.x; first < end; first += kThreads * kLanes) {
#pragma unroll
      for (int lane = 0; lane < kLanes; ++lane) {
        const int i = first + lane * kThreads;
        if (i < end) {
          const T w = cur[i], p = prev[i];
          if constexpr (kUpdate) prev[i] = w;
          sums.add(lane, w, p);
        }
      }
    }
  };

  if ((cur_address - prev_address) % 16 != 0) {  // never 16-byte aligned together
    add_singly(0, n);
  } else {
    const int head = min(n, static_cast<int>((16 - cur_address % 16) % 16 / sizeof(T)));
    const int vectors = (n - head) / kVector;
    const int tail = head + vectors * kVector;
    add_singly(0, head);
    add_singly(tail, n);

    const uint4* cur_body = reinterpret_cast<const uint4*>(cur + head);
    uint4* prev_body = reinterpret_cast<uint4*>(prev + head);
    for (int first = threadIdx.x; first < vectors; first += kThreads * kUnroll) {
      uint4 w[kUnroll], p[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int i = first + u * kThreads;
        if (i < vectors) {
          w[u] = __ldcg(cur_body + i);   // stays in the L2 cache for the next forward pass
          p[u] = __ldcs(prev_body + i);  // is evicted first: nothing reads prev before the next step
        }
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int i = first + u * kThreads;
        if (i < vectors) {
          if constexpr (kUpdate) __stcs(prev_body + i, w[u]);
#pragma unroll
          for (int j = 0; j < kVector; ++j)
            sums.add(j % kLanes, reinterpret_cast<const T*>(&w[u])[j], reinterpret_cast<const T*>(&p[u])[j]);
        }
      }
    }
  }

  __shared__ double shared[kThreads / 32];
  const double delta_l1 = over_block<kThreads>(add_lanes(sums.delta_l1), shared);
  const double prev_l1 = over_block<kThreads>(add_lanes(sums.prev_l1), shared);
  const double moved = over_block<kThreads>(sums.moved, shared);
  double delta_sq = 0.0, prev_sq = 0.0, delta_max = 0.0, ratio_sum = 0.0;
  if constexpr (kL2) {
    delta_sq = over_block<kThreads>(sums.delta_sq, shared);
    prev_sq = over_block<kThreads>(sums.prev_sq, shared);
    delta_max = over_block<kThreads>(sums.delta_max, shared, true);
  }
  if constexpr (kRatio) ratio_sum = over_block<kThreads>(add_lanes(sums.ratio_sum), shared);
  if (threadIdx.x == 0) {
    partial[kDeltaL1 * C + c] = delta_l1;
    partial[kPrevL1 * C + c] = prev_l1;
    partial[kMoved * C + c] = moved;
    if constexpr (kL2) {
      partial[kDeltaSq * C + c] = delta_sq;
      partial[kPrevSq * C + c] = prev_sq;
      partial[kDeltaMax * C + c] = delta_max;
    }
    if constexpr (kRatio) partial[ratio_row(sums_of(kRatio, kL2)) * C + c] = ratio_sum;
  }
}

// Adds a row of `partial`, or the chunks' lengths, over a layer's chunks begin to end; or takes the largest of them.
// Only thread 0 gets the result.
template <int kBlock, typename T>
__device__ double over_chunks(const T* __restrict__ row, int64_t begin, int64_t end, double* shared,
                              bool largest = false) {
  double lanes[kLanes] = {};
  for (int64_t first = begin + threadIdx.x; first < end; first += kBlock * kLanes) {
#pragma unroll
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t c = first + lane * kBlock;
      const double part = c < end ? static_cast<double>(row[c]) : 0.0;
      lanes[lane] = join(lanes[lane], part, largest);
    }
  }
#pragma unroll
  for (int lane = 1; lane < kLanes; ++lane) lanes[0] = join(lanes[0], lanes[lane], largest);
  return over_block<kBlock>(lanes[0], shared, largest);
}

template <int kBlock>
__global__ void __launch_bounds__(kBlock) layer_sums_kernel(const double* __restrict__ partial,       // [K, C]
                                                            const int64_t* __restrict__ chunks,       // [3, C]
                                                            const int64_t* __restrict__ layer_start,  // [G + 1]
                                                            const int64_t* __restrict__ layer_row,    // [G]
                                                            double* __restrict__ out,                 // [R, K, L]
                                                            float* __restrict__ rwc,                  // [L] or [0]
                                                            const int64_t* __restrict__ cursor,       // [1]
                                                            int64_t C, int64_t L, int64_t K, int64_t R) {
  __shared__ double shared[kBlock / 32];
  const int64_t l = blockIdx.x, k = blockIdx.y;
  const int64_t begin = layer_start[l], end = layer_start[l + 1];
  const int64_t ratio_above = has_ratio(K) ? ratio_row(K) : has_l2(K) ? kDeltaSq : kDeltaL1;
  const int64_t row = k < K ? k : ratio_above;
  const double sum = over_chunks<kBlock>(partial + row * C, begin, end, shared, has_l2(K) && row == kDeltaMax);
  if (k < K) {
    const int64_t back = *cursor % R < 0 ? R * K : 0;  // as in Python: no row before the first
    if (threadIdx.x == 0) out[(back + *cursor % R * K + k) * L + layer_row[l]] = sum;
    return;
  }
  // The ratio's block adds its two sums again, in the same order, and so waits for no block.
  const double below = has_ratio(K) ? over_chunks<kBlock>(chunks + kLength * C, begin, end, shared)
                                    : over_chunks<kBlock>(partial + (row + 1) * C, begin, end, shared);
  if (threadIdx.x == 0)
    rwc[layer_row[l]] = static_cast<float>(has_ratio(K) ? mean_ratio(sum, below)
                                           : has_l2(K)  ? l2_ratio(sum, below)
                                                        : norm_ratio(sum, below));
}

// This is plain C++, unlike <<<>>>, because the tests compile this file for the CPU too.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int block, cudaStream_t stream, Arguments... arguments) {
  const cudaLaunchConfig_t config{grid, dim3(block), 0, stream, nullptr, 0};
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  STD_TORCH_CHECK(error == cudaSuccess, "layer_sums_cuda: the launch failed: ", cudaGetErrorString(error));
}

template <typename T, bool kUpdate>
void launch_chunk_sums(const int64_t* chunks, int64_t prev_base, double* partial, int64_t C, int64_t K,
                       cudaStream_t stream) {
  const auto kernel =
      has_l2(K)
          ? (has_ratio(K) ? chunk_sums_kernel<T, kUpdate, true, true> : chunk_sums_kernel<T, kUpdate, false, true>)
          : (has_ratio(K) ? chunk_sums_kernel<T, kUpdate, true, false> : chunk_sums_kernel<T, kUpdate, false, false>);
  launch(kernel, dim3(static_cast<unsigned>(C)), kThreads, stream, chunks, prev_base, partial, C);
}

using torch::stable::Tensor;

void layer_sums_cuda(const Tensor& chunks,       // [3, C] int64, see ChunkRow
                     const Tensor& layer_start,  // [G + 1] int64, the first chunk of each layer
                     const Tensor& layer_row,    // [G] int64, the column of `out` that is the layer's
                     Tensor prev,                // any shape; kPrevOffset counts from its first byte
                     Tensor partial,             // [>= K, C] float64, scratch
                     Tensor out,                 // [R, K, L] float64
                     Tensor rwc,                 // [L] float32, or [0] if only the sums are wanted
                     const Tensor& cursor,       // [1] int64, the row of `out` to fill, modulo R
                     bool update,
                     int64_t most_chunks,  // of one layer
                     int64_t stream_address) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(out.dim() == 3, "layer_sums_cuda: out must be [R, K, L]");
  const int64_t C = chunks.size(1), G = layer_row.size(0), L = out.size(2), K = out.size(1), R = out.size(0);
  STD_TORCH_CHECK(chunks.size(0) == kChunkRows && layer_start.size(0) == G + 1 && known_sums(K) &&
                      partial.size(0) >= K && partial.size(1) == C && (rwc.size(0) == 0 || rwc.size(0) == L),
                  "layer_sums_cuda: the plan's tables do not fit each other");
  STD_TORCH_CHECK(chunks.is_contiguous() && layer_start.is_contiguous() && layer_row.is_contiguous() &&
                      partial.is_contiguous() && out.is_contiguous() && rwc.is_contiguous(),
                  "layer_sums_cuda: the plan's tables, out and rwc must be contiguous");
  const auto device = out.get_device_index();
  STD_TORCH_CHECK(chunks.get_device_index() == device && layer_start.get_device_index() == device &&
                      layer_row.get_device_index() == device && prev.get_device_index() == device &&
                      partial.get_device_index() == device && rwc.get_device_index() == device &&
                      cursor.get_device_index() == device,
                  "layer_sums_cuda: all tensors must be on the device of out");
  if (G == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = reinterpret_cast<cudaStream_t>(stream_address);
  double* partial_sums = partial.mutable_data_ptr<double>();
  if (C > 0) {
    const int64_t* table = chunks.const_data_ptr<int64_t>();
    const int64_t prev_base = reinterpret_cast<int64_t>(prev.mutable_data_ptr());
    const auto launch_for = [&](auto weight) {
      using T = decltype(weight);
      update ? launch_chunk_sums<T, true>(table, prev_base, partial_sums, C, K, stream)
             : launch_chunk_sums<T, false>(table, prev_base, partial_sums, C, K, stream);
    };
    switch (prev.scalar_type()) {
      case ScalarType::Float: launch_for(float{}); break;
      case ScalarType::Double: launch_for(double{}); break;
      case ScalarType::BFloat16: launch_for(__nv_bfloat16{}); break;
      case ScalarType::Half: launch_for(__half{}); break;
      default: STD_TORCH_CHECK(false, "layer_sums_cuda: expected float32, float64, bfloat16 or float16 weights");
    }
  }
  const bool few = most_chunks <= kFewChunks, many = most_chunks > kManyChunks;
  launch(few    ? layer_sums_kernel<kFewThreads>
         : many ? layer_sums_kernel<kManyThreads>
                : layer_sums_kernel<kThreads>,
         dim3(static_cast<unsigned>(G), static_cast<unsigned>(rwc.size(0) ? K + 1 : K)),
         few    ? kFewThreads
         : many ? kManyThreads
                : kThreads,
         stream, static_cast<const double*>(partial_sums), chunks.const_data_ptr<int64_t>(),
         layer_start.const_data_ptr<int64_t>(), layer_row.const_data_ptr<int64_t>(), out.mutable_data_ptr<double>(),
         rwc.mutable_data_ptr<float>(), cursor.const_data_ptr<int64_t>(), C, L, K, R);
}

}  // namespace
}  // namespace weightscale_fast

STABLE_TORCH_LIBRARY_IMPL(weightscale_fast, CUDA, m) {
  m.impl("layer_sums_cuda", TORCH_BOX(&weightscale_fast::layer_sums_cuda));
}
