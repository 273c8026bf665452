// The pass on the CPU: weightscale_fast::layer_sums for the CPU dispatch key. Python defines the schema
// (weightscale_fast/ops/register.py); this file implements it.
//
// Stage 1: one thread reads each chunk once, into K float64 partial sums, and writes prev <- cur in the same loop.
// Stage 2 adds the partial sums of each layer's chunks in their order. It does not matter which thread read a chunk, so
// the bits do not depend on the number of threads.
// For n weights of s bytes each, the pass reads 2 n s bytes and writes n s bytes.
//
// The file uses PyTorch's stable ABI and no Python.h, so one binary works with every later torch and Python.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "../plan.h"
#include "isa.h"

namespace weightscale_fast {
namespace {

constexpr int64_t kElementsPerRun = 64 * 1024;  // a thread takes about this many weights at a time
// A hardware prefetcher does not follow two streams well, so the loop prefetches this far ahead.
constexpr int64_t kPrefetchBytes = 2048;

#if defined(__x86_64__)
WSF_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace avx512 {
#define BYTES 64
#include "chunk.h"
#undef BYTES
}  // namespace avx512
WSF_TARGET_END

WSF_TARGET_BEGIN("avx2,fma,f16c")
namespace avx2 {
#define BYTES 32
#include "chunk.h"
#undef BYTES
}  // namespace avx2
WSF_TARGET_END
#endif

namespace baseline {  // always available: SSE2 on x86-64, NEON on AArch64
#define BYTES 16
#include "chunk.h"
#undef BYTES
}  // namespace baseline

using ChunkSums = void (*)(const void* cur, void* prev, int64_t n, double* sums);

#define WSF_PICK_L2(isa, Type, kUpdate, kRatio) \
  (l2 ? isa::chunk_sums<isa::Type, kUpdate, kRatio, true> : isa::chunk_sums<isa::Type, kUpdate, kRatio, false>)
#define WSF_PICK_VARIANT(isa, Type)                                                            \
  (update ? (ratio ? WSF_PICK_L2(isa, Type, true, true) : WSF_PICK_L2(isa, Type, true, false)) \
          : (ratio ? WSF_PICK_L2(isa, Type, false, true) : WSF_PICK_L2(isa, Type, false, false)))

#if defined(__x86_64__)
#define WSF_PICK(Type)                           \
  (has_avx512() ? WSF_PICK_VARIANT(avx512, Type) \
   : has_avx2() ? WSF_PICK_VARIANT(avx2, Type)   \
                : WSF_PICK_VARIANT(baseline, Type))
#else
#define WSF_PICK(Type) WSF_PICK_VARIANT(baseline, Type)
#endif

ChunkSums pick_chunk_sums(torch::headeronly::ScalarType dtype, bool update, bool ratio, bool l2) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Float: return WSF_PICK(Float32);
    case ScalarType::Double: return WSF_PICK(Float64);
    case ScalarType::BFloat16: return WSF_PICK(BFloat16);
    case ScalarType::Half: return WSF_PICK(Float16);
    default: STD_TORCH_CHECK(false, "layer_sums: expected float32, float64, bfloat16 or float16 weights");
  }
}

using torch::stable::Tensor;

void layer_sums_cpu(const Tensor& chunks,       // [3, C] int64, see ChunkRow
                    const Tensor& layer_start,  // [G + 1] int64, the first chunk of each layer
                    const Tensor& layer_row,    // [G] int64, the column of `out` that is the layer's
                    Tensor prev,                // any shape; the weights' dtype; kPrevOffset counts from its first byte
                    Tensor partial,             // [>= K, C] float64, scratch
                    Tensor out,                 // [R, K, L] float64
                    Tensor rwc,                 // [L] float32, or [0] if only the sums are wanted
                    const Tensor& cursor,       // [1] int64, the row of `out` to fill, modulo R
                    bool update) {
  STD_TORCH_CHECK(out.dim() == 3, "layer_sums: out must be [R, K, L]");
  const int64_t C = chunks.size(1), G = layer_row.size(0), L = out.size(2), K = out.size(1), R = out.size(0);
  STD_TORCH_CHECK(chunks.size(0) == kChunkRows && layer_start.size(0) == G + 1 && known_sums(K) &&
                      partial.size(0) >= K && partial.size(1) == C && (rwc.size(0) == 0 || rwc.size(0) == L),
                  "layer_sums: the plan's tables do not fit each other");
  STD_TORCH_CHECK(chunks.is_contiguous() && layer_start.is_contiguous() && layer_row.is_contiguous() &&
                      partial.is_contiguous() && out.is_contiguous() && rwc.is_contiguous(),
                  "layer_sums: the plan's tables, out and rwc must be contiguous");
  const int64_t* table = chunks.const_data_ptr<int64_t>();
  const int64_t* cur_address = table + kCurAddress * C;
  const int64_t* prev_offset = table + kPrevOffset * C;
  const int64_t* length = table + kLength * C;
  const int64_t prev_base = reinterpret_cast<int64_t>(prev.mutable_data_ptr());
  double* partial_sums = partial.mutable_data_ptr<double>();
  double* out_sums = out.mutable_data_ptr<double>() + *cursor.const_data_ptr<int64_t>() % R * K * L;
  if (*cursor.const_data_ptr<int64_t>() % R < 0) out_sums += R * K * L;  // as in Python: no row before the first
  const ChunkSums chunk_sums = pick_chunk_sums(prev.scalar_type(), update, has_ratio(K), has_l2(K));

  int64_t elements = 0;
  for (int64_t c = 0; c < C; ++c) elements += length[c];
  const int64_t runs = std::max<int64_t>(1, std::min(C, elements / kElementsPerRun));
  const int64_t threads = std::min(runs, static_cast<int64_t>(torch::stable::get_num_threads()));

  // Each thread takes the next run of chunks when it is free. A slow or interrupted thread then delays the pass by one
  // run only.
  std::atomic<int64_t> next_run{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t run; (run = next_run.fetch_add(1, std::memory_order_relaxed)) < runs;)
      for (int64_t c = run * C / runs; c < (run + 1) * C / runs; ++c) {
        double sums[kMaxSums];
        chunk_sums(reinterpret_cast<const void*>(cur_address[c]), reinterpret_cast<void*>(prev_base + prev_offset[c]),
                   length[c], sums);
        for (int64_t k = 0; k < K; ++k) partial_sums[k * C + c] = sums[k];
      }
  });

  const int64_t* start = layer_start.const_data_ptr<int64_t>();
  const int64_t* row = layer_row.const_data_ptr<int64_t>();
  for (int64_t k = 0; k < K; ++k) {
    const bool largest = has_l2(K) && k == kDeltaMax;
    for (int64_t l = 0; l < G; ++l) {
      double sum = 0.0;
      for (int64_t c = start[l]; c < start[l + 1]; ++c) {
        const double part = partial_sums[k * C + c];
        sum = largest ? larger_or_nan(sum, part) : sum + part;
      }
      out_sums[k * L + row[l]] = sum;
    }
  }

  if (rwc.size(0) == 0) return;
  float* ratios = rwc.mutable_data_ptr<float>();
  for (int64_t l = 0; l < G; ++l) {
    const double* sums = out_sums + row[l];
    int64_t weights = 0;
    for (int64_t c = start[l]; c < start[l + 1]; ++c) weights += length[c];
    ratios[row[l]] = static_cast<float>(has_ratio(K) ? mean_ratio(sums[ratio_row(K) * L], static_cast<double>(weights))
                                        : has_l2(K)  ? l2_ratio(sums[kDeltaSq * L], sums[kPrevSq * L])
                                                     : norm_ratio(sums[kDeltaL1 * L], sums[kPrevL1 * L]));
  }
}

}  // namespace
}  // namespace weightscale_fast

STABLE_TORCH_LIBRARY_IMPL(weightscale_fast, CPU, m) {
  m.impl("layer_sums", TORCH_BOX(&weightscale_fast::layer_sums_cpu));
}
