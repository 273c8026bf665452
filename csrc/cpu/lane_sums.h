// The sums of pairs of registers: weights w, and the weights p before them. What computes or reads the weights adds
// them here, so that one copy of this arithmetic serves the pass and every other loop over the weights.
//
// It is included like vectors.h, which it includes: once per instruction set.
//
// Accuracy: a float32 lane adds at most kDepth values before it goes to a float64 lane. So the relative error of a sum
// is below (kDepth + 1) * 2^-24 = 1e-6 for any length. 16-bit weights become float32 first. Squares are formed and
// added in float64: in float32, the square of a step below 1e-19 is zero.
//
// Order: it depends on the number of weights only, so the same weights give the same bits on any thread.

#include "vectors.h"

constexpr int64_t kDepth = 8;  // float32 values that one lane adds before it goes to float64

// The lanes of a register as float64. On x86-64, GCC makes twice as many instructions of __builtin_convertvector.
inline void widen_lanes(F32 x, F64& low, F64& high) {
#if defined(__x86_64__) && BYTES == 64
  low = (F64)_mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, (__m512)x, 0));
  high = (F64)_mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, (__m512)x, 1));
#elif defined(__x86_64__) && BYTES == 32
  low = (F64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x));
  high = (F64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, 1));
#elif defined(__x86_64__)
  low = (F64)_mm_cvtps_pd((__m128)x);
  high = (F64)_mm_cvtps_pd(_mm_movehl_ps((__m128)x, (__m128)x));
#else
  Vec<float, BYTES / 2> halves[2];
  std::memcpy(halves, &x, sizeof(x));
  low = __builtin_convertvector(halves[0], F64);
  high = __builtin_convertvector(halves[1], F64);
#endif
}

// total += x, lane by lane, in 64 bits.
inline void add_to(F64& total, F64 x) { total += x; }
inline void add_to(I64& total, I64 x) { total += x; }
inline void add_to(F64& total, F32 x) {
  F64 low, high;
  widen_lanes(x, low, high);
  total += low + high;
}
inline void add_to(I64& total, I32 x) {
  Vec<int32_t, BYTES / 2> halves[2];
  std::memcpy(halves, &x, sizeof(x));
  total += __builtin_convertvector(halves[0], I64) + __builtin_convertvector(halves[1], I64);
}

// The sum and all lanes. `lanes` is a copy, so that the totals themselves can stay in registers.
template <typename V>
inline double add_lanes(double sum, V lanes) {
  for (int64_t lane = 0; lane < BYTES / 8; ++lane) sum += static_cast<double>(lanes[lane]);
  return sum;
}

// Sums of squares. A register of float32 has the lanes of both.
struct Squares {
  F64 low = {}, high = {};
};
inline void add_square(Squares& sums, F64 x) { sums.low += x * x; }
inline void add_square(Squares& sums, F32 x) {
  F64 low, high;
  widen_lanes(x, low, high);
  sums.low += low * low;
  sums.high += high * high;
}

// The larger of two lanes. As integers, the bits of absolute values have the values' order, and a NaN is above them
// all.
template <typename I>
inline I larger(I a, I b) {
  return a > b ? a : b;
}

#define WSF_INLINE inline __attribute__((always_inline))

// The sums of weights of one dtype. A loop adds each pair of registers with add(), calls flush() after every kDepth
// pairs or fewer, adds what fills no register with add_scalar(), and at the end calls write(). All of it must be
// inlined: the sums stay in registers only if nothing has their address.
//   kRatio  with ratio_sum      kL2  with delta_sq, prev_sq and delta_max
template <typename Type, bool kRatio, bool kL2>
struct PairSums {
  using Wide = typename Type::Wide;
  using Scalar = decltype(Type::widen(typename Type::T{}));
  using Bits = decltype(Wide{} != Wide{});  // signed integers of the size of a lane

  Wide delta_l1[Type::kWide] = {}, prev_l1[Type::kWide] = {}, ratio_sum[Type::kWide] = {};
  Bits moved[Type::kWide] = {}, delta_max = {};
  Squares delta_sq, prev_sq;
  F64 delta_l1_total = {}, prev_l1_total = {}, ratio_sum_total = {};
  I64 moved_total = {};
  double scalar[kMaxSums] = {};  // the sums of what fills no register, as write() orders them

  // Adds register j of the Type::kWide ones that a register of stored weights widens to.
  WSF_INLINE void add(int64_t j, Wide w, Wide p) {
    const Wide delta = w - p;
    const Wide abs_delta = absolute(delta), abs_prev = absolute(p);
    delta_l1[j] += abs_delta;
    prev_l1[j] += abs_prev;
    moved[j] -= (w != p);  // a true lane is -1
    if constexpr (kL2) {
      add_square(delta_sq, delta);
      add_square(prev_sq, p);
      delta_max = larger(delta_max, (Bits)abs_delta);
    }
    if constexpr (kRatio) ratio_sum[j] += abs_delta / abs_prev;
  }

  // Moves the float32 lanes to float64 lanes.
  WSF_INLINE void flush() {
    for (int64_t j = 0; j < Type::kWide; ++j) {
      add_to(delta_l1_total, delta_l1[j]);
      add_to(prev_l1_total, prev_l1[j]);
      add_to(moved_total, moved[j]);
      if constexpr (kRatio) add_to(ratio_sum_total, ratio_sum[j]);
      delta_l1[j] = prev_l1[j] = ratio_sum[j] = Wide{};
      moved[j] = Bits{};
    }
  }

  // Adds one weight.
  WSF_INLINE void add_scalar(Scalar stored, Scalar before) {
    const double w = stored, p = before;
    const double abs_delta = std::fabs(w - p), abs_prev = std::fabs(p);
    scalar[kDeltaL1] += abs_delta;
    scalar[kPrevL1] += abs_prev;
    scalar[kMoved] += w != p;
    if constexpr (kL2) {
      scalar[kDeltaSq] += abs_delta * abs_delta;
      scalar[kPrevSq] += abs_prev * abs_prev;
      scalar[kDeltaMax] = larger_or_nan(scalar[kDeltaMax], abs_delta);
    }
    // In the precision of the registers, so that a ratio above the largest float32 is infinite here too.
    if constexpr (kRatio) scalar[kRatioRow] += static_cast<Scalar>(abs_delta) / static_cast<Scalar>(abs_prev);
  }

  // Writes the sums to sums [K]. All registers have been flushed.
  WSF_INLINE void write(double* sums) const {
    for (int64_t k = 0; k < kSums; ++k) sums[k] = scalar[k];
    sums[kDeltaL1] = add_lanes(sums[kDeltaL1], delta_l1_total);
    sums[kPrevL1] = add_lanes(sums[kPrevL1], prev_l1_total);
    sums[kMoved] = add_lanes(sums[kMoved], moved_total);
    if constexpr (kL2) {
      sums[kDeltaSq] = add_lanes(sums[kDeltaSq], delta_sq.low + delta_sq.high);
      sums[kPrevSq] = add_lanes(sums[kPrevSq], prev_sq.low + prev_sq.high);
      const Wide lanes = (Wide)delta_max;
      for (int64_t lane = 0; lane < kLanes; ++lane)
        sums[kDeltaMax] = larger_or_nan(sums[kDeltaMax], static_cast<double>(lanes[lane]));
    }
    if constexpr (kRatio) sums[kRatioRow] = add_lanes(sums[kRatioRow], ratio_sum_total);
  }

  static constexpr int64_t kLanes = BYTES / sizeof(Scalar);
  static constexpr int64_t kSums = sums_of(kRatio, kL2);
  static constexpr int64_t kRatioRow = ratio_row(kSums);
};

#undef WSF_INLINE
