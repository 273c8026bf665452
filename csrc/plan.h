// The tables of a plan, as every backend reads them. Python builds them once (weightscale_fast/ops/plan.py)
// and passes them unchanged at every step.
//
// Letters, the same in Python, C++ and CUDA:
//   L  layers of the model, G  layers of this group (one device, one dtype), C  chunks of this group,
//   K  sums per layer, R  rows of `out`.
#pragma once

#include <cmath>
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

// Rows of `partial` [K, C] and of each row of `out` [R, K, L], float64. The three in the middle are there if L2 is
// wanted. ratio_sum, sum |w - prev| / |prev|, is there if it is wanted, and is the last row then. So K is 3, 4, 6 or 7.
enum SumRow : int64_t {
  kDeltaL1 = 0,   // sum |w - prev|      numerator of Eq. 1 (WeightScale; arXiv 2011.06735)
  kPrevL1 = 1,    // sum |prev|          denominator of Eq. 1
  kMoved = 2,     // count w != prev
  kDeltaSq = 3,   // sum (w - prev)^2
  kPrevSq = 4,    // sum prev^2
  kDeltaMax = 5,  // max |w - prev|      not a sum: what adds up rows takes the largest here. NaN is above all
  kMaxSums = 7,
};
WSF_HOST_DEVICE constexpr int64_t sums_of(bool ratio, bool l2) { return 3 + (l2 ? 3 : 0) + (ratio ? 1 : 0); }
WSF_HOST_DEVICE constexpr bool known_sums(int64_t K) { return K == 3 || K == 4 || K == 6 || K == 7; }
WSF_HOST_DEVICE constexpr bool has_ratio(int64_t K) { return K == 4 || K == 7; }
WSF_HOST_DEVICE constexpr bool has_l2(int64_t K) { return K >= 6; }
WSF_HOST_DEVICE constexpr int64_t ratio_row(int64_t K) { return K - 1; }  // of ratio_sum, if it is there

// The larger of two absolute values, or NaN if one of them is NaN.
WSF_HOST_DEVICE inline double larger_or_nan(double a, double b) { return b > a || b != b ? b : a; }

// Relative weight change of a layer, from its sums. Stage 2 writes it to `rwc` [L], float32.
//   norm_ratio, K = 3: delta_l1 / prev_l1 (Eq. 1), 0 where nothing moved, else NaN where prev_l1 is infinite
//   l2_ratio, K = 6: the same rules for sqrt(delta_sq) / sqrt(prev_sq)
//   mean_ratio, K = 4 and 7: ratio_sum / weights, and 0 for a layer without weights
// weightscale_fast/ratios.py has the same formulas in Python.
WSF_HOST_DEVICE inline double norm_ratio(double delta_l1, double prev_l1) {
  if (delta_l1 == 0.0) return 0.0;
  const double nan_if_infinite = prev_l1 - prev_l1;  // a sum that overflowed is not known
  return delta_l1 / prev_l1 + nan_if_infinite;
}
WSF_HOST_DEVICE inline double l2_ratio(double delta_sq, double prev_sq) {
  return norm_ratio(sqrt(delta_sq), sqrt(prev_sq));
}
WSF_HOST_DEVICE inline double mean_ratio(double ratio_sum, double weights) {
  return ratio_sum / (weights > 1.0 ? weights : 1.0);
}

}  // namespace weightscale_fast
