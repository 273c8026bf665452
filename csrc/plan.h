// The tables of a plan, as every backend reads them. Python builds them once (weightscale_fast/ops/plan.py)
// and passes them unchanged at every step.
//
// Letters, the same in Python, C++ and CUDA:
//   L  layers of the model, G  layers of this group (one device, one dtype), C  chunks of this group,
//   K  sums per layer, R  rows of `out`.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define WSF_HOST_DEVICE __host__ __device__
#else
#define WSF_HOST_DEVICE
#endif

namespace weightscale_fast {

// Rows of `chunks` [3, C], int64.
enum ChunkRow : int64_t {
  kCurAddress = 0,  // where the chunk's current weights start
  kPrevOffset = 1,  // bytes from prev.data_ptr() to the chunk's previous weights
  kLength = 2,      // weights in the chunk, at least one
  kChunkRows = 3,
};

// Rows of `partial` [K, C] and of each row of `out` [R, K, L], float64. K is 3, or 4 with ratio_sum.
enum SumRow : int64_t {
  kDeltaL1 = 0,   // sum |w - prev|          numerator of Eq. 1 (WeightScale; arXiv 2011.06735)
  kPrevL1 = 1,    // sum |prev|              denominator of Eq. 1
  kMoved = 2,     // count w != prev
  kRatioSum = 3,  // sum |w - prev| / |prev|
  kMaxSums = 4,
};

// Relative weight change of a layer, from its sums. Stage 2 writes it to `rwc` [L], float32.
//   norm_ratio, K = 3: delta_l1 / prev_l1 (Eq. 1), 0 where nothing moved, else NaN where prev_l1 is infinite
//   mean_ratio, K = 4: ratio_sum / weights, and 0 for a layer without weights
// weightscale_fast/ratios.py has the same formulas in Python.
WSF_HOST_DEVICE inline double norm_ratio(double delta_l1, double prev_l1) {
  if (delta_l1 == 0.0) return 0.0;
  const double nan_if_infinite = prev_l1 - prev_l1;  // a sum that overflowed is not known
  return delta_l1 / prev_l1 + nan_if_infinite;
}
WSF_HOST_DEVICE inline double mean_ratio(double ratio_sum, double weights) {
  return ratio_sum / (weights > 1.0 ? weights : 1.0);
}

}  // namespace weightscale_fast
