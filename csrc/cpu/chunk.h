// One chunk of the pass: it reads the weights once, adds their four sums, and writes prev <- cur.
//
// layer_sums.cpp includes this file once per instruction set, each time in another namespace and with BYTES defined as
// the bytes of a vector register. The code uses the vector types of GCC and Clang, so one source serves AVX-512, AVX2,
// SSE2 and NEON. A cast between vector types of the same size keeps the bits.
//
// Accuracy: a float32 lane adds at most kDepth values before it goes to a float64 lane. So the relative error of a sum
// is below (kDepth + 1) * 2^-24 = 1e-6 for any length. 16-bit weights become float32 first.
// Order: it depends on the length only, so a chunk gives the same bits on any thread.

template <typename T, int64_t kBytes = BYTES>
using Vec __attribute__((vector_size(kBytes))) = T;

using F32 = Vec<float>;
using F64 = Vec<double>;
using I32 = Vec<int32_t>;
using U32 = Vec<uint32_t>;
using I64 = Vec<int64_t>;
using U64 = Vec<uint64_t>;

template <typename V, typename T>
inline V load(const T* address) {
  V value;
  std::memcpy(&value, address, sizeof(V));
  return value;
}

// One struct per dtype. T is the stored type. Wide is the register type for the arithmetic, and one register of T
// widens to kWide of them. The order of the weights in those registers does not matter to a sum.
struct Float32 {
  using T = float;
  using Wide = F32;
  static constexpr int64_t kWide = 1;
  static void widen(const T* from, Wide* to) { to[0] = load<F32>(from); }
  static float widen(T x) { return x; }
};

struct Float64 {
  using T = double;
  using Wide = F64;
  static constexpr int64_t kWide = 1;
  static void widen(const T* from, Wide* to) { to[0] = load<F64>(from); }
  static double widen(T x) { return x; }
};

// bfloat16 is the upper half of a float32. Each 32-bit word of a register holds two of them.
struct BFloat16 {
  using T = uint16_t;
  using Wide = F32;
  static constexpr int64_t kWide = 2;
  static void widen(const T* from, Wide* to) {
    const U32 words = load<U32>(from);
    to[0] = (F32)(words << 16);
    to[1] = (F32)(words & 0xffff0000u);
  }
  static float widen(T x) {
    const uint32_t word = static_cast<uint32_t>(x) << 16;
    return load<float>(&word);
  }
};

struct Float16 {
  using T = uint16_t;  // not every compiler has _Float16
  using Wide = F32;
  static constexpr int64_t kWide = 2;
  static void widen(const T* from, Wide* to) {
    constexpr int64_t half = BYTES / 4;
#if defined(__x86_64__) && BYTES == 64
    to[0] = (F32)_mm512_maskz_cvtph_ps(0xffff, load<__m256i>(from));
    to[1] = (F32)_mm512_maskz_cvtph_ps(0xffff, load<__m256i>(from + half));
#elif defined(__x86_64__) && BYTES == 32
    to[0] = (F32)_mm256_cvtph_ps(load<__m128i>(from));
    to[1] = (F32)_mm256_cvtph_ps(load<__m128i>(from + half));
#else
    float wide[2 * half];
    for (int64_t i = 0; i < 2 * half; ++i) wide[i] = widen(from[i]);
    to[0] = load<F32>(wide);
    to[1] = load<F32>(wide + half);
#endif
  }
  static float widen(T x) {
    const uint32_t magnitude = static_cast<uint32_t>(x & 0x7fff) << 13;  // exponent and mantissa at their float32 bits
    float value = load<float>(&magnitude) * 0x1p112f;                    // corrects the exponent's bias; subnormals too
    uint32_t bits = load<uint32_t>(&value);
    if ((x & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000u;  // inf and NaN
    bits |= static_cast<uint32_t>(x & 0x8000) << 16;
    return load<float>(&bits);
  }
};

inline F32 absolute(F32 x) { return (F32)((U32)x & 0x7fffffffu); }
inline F64 absolute(F64 x) { return (F64)((U64)x & 0x7fffffffffffffffu); }

// total += x, lane by lane, in 64 bits.
inline void add_to(F64& total, F64 x) { total += x; }
inline void add_to(I64& total, I64 x) { total += x; }
inline void add_to(F64& total, F32 x) {
  Vec<float, BYTES / 2> halves[2];
  std::memcpy(halves, &x, sizeof(x));
  total += __builtin_convertvector(halves[0], F64) + __builtin_convertvector(halves[1], F64);
}
inline void add_to(I64& total, I32 x) {
  Vec<int32_t, BYTES / 2> halves[2];
  std::memcpy(halves, &x, sizeof(x));
  total += __builtin_convertvector(halves[0], I64) + __builtin_convertvector(halves[1], I64);
}

// The sums of a chunk. Each 64-bit lane has a part of them.
struct LaneSums {
  F64 delta_l1 = {}, prev_l1 = {}, ratio_sum = {};
  I64 moved = {};
};

// Adds `registers` <= kDepth registers of weights. If kUpdate, it also stores them at prev.
template <typename Type, bool kUpdate, bool kRatio>
inline void add_registers(const typename Type::T* cur, typename Type::T* prev, int64_t registers, LaneSums& sums) {
  using Wide = typename Type::Wide;
  constexpr int64_t kLanes = BYTES / sizeof(typename Type::T);
  Wide delta_l1[Type::kWide] = {}, prev_l1[Type::kWide] = {}, ratio_sum[Type::kWide] = {};
  decltype(Wide{} != Wide{}) moved[Type::kWide] = {};
  for (int64_t i = 0; i < registers; ++i, cur += kLanes, prev += kLanes) {
    Wide w[Type::kWide], p[Type::kWide];
    __builtin_prefetch(reinterpret_cast<const char*>(cur) + kPrefetchBytes);
    __builtin_prefetch(reinterpret_cast<const char*>(prev) + kPrefetchBytes, /*rw=*/1);
    Type::widen(cur, w);
    Type::widen(prev, p);
    if constexpr (kUpdate) std::memcpy(prev, cur, BYTES);
    for (int64_t j = 0; j < Type::kWide; ++j) {
      const Wide abs_delta = absolute(w[j] - p[j]), abs_prev = absolute(p[j]);
      delta_l1[j] += abs_delta;
      prev_l1[j] += abs_prev;
      moved[j] -= (w[j] != p[j]);  // a true lane is -1
      if constexpr (kRatio) ratio_sum[j] += abs_delta / abs_prev;
    }
  }
  for (int64_t j = 0; j < Type::kWide; ++j) {
    add_to(sums.delta_l1, delta_l1[j]);
    add_to(sums.prev_l1, prev_l1[j]);
    add_to(sums.moved, moved[j]);
    if constexpr (kRatio) add_to(sums.ratio_sum, ratio_sum[j]);
  }
}

// Writes the sums of the n weights at cur and prev to sums [kMaxSums]. If kUpdate, prev <- cur.
template <typename Type, bool kUpdate, bool kRatio>
void chunk_sums(const void* cur_address, void* prev_address, int64_t n, double* sums) {
  using T = typename Type::T;
  using Scalar = decltype(Type::widen(T{}));
  constexpr int64_t kLanes = BYTES / sizeof(T);
  const T* cur = static_cast<const T*>(cur_address);
  T* prev = static_cast<T*>(prev_address);
  const T* const end = cur + n;

  LaneSums lanes;
  for (; end - cur >= kDepth * kLanes; cur += kDepth * kLanes, prev += kDepth * kLanes)
    add_registers<Type, kUpdate, kRatio>(cur, prev, kDepth, lanes);
  const int64_t registers = (end - cur) / kLanes;
  add_registers<Type, kUpdate, kRatio>(cur, prev, registers, lanes);
  cur += registers * kLanes, prev += registers * kLanes;

  for (int64_t k = 0; k < kMaxSums; ++k) sums[k] = 0.0;
  for (; cur < end; ++cur, ++prev) {  // fewer than a register
    const double w = Type::widen(*cur), p = Type::widen(*prev);
    const double abs_delta = std::fabs(w - p), abs_prev = std::fabs(p);
    sums[kDeltaL1] += abs_delta;
    sums[kPrevL1] += abs_prev;
    sums[kMoved] += w != p;
    // In the precision of the registers, so that a ratio above the largest float32 is infinite here too.
    if constexpr (kRatio) sums[kRatioSum] += static_cast<Scalar>(abs_delta) / static_cast<Scalar>(abs_prev);
    if constexpr (kUpdate) *prev = *cur;
  }
  for (int64_t lane = 0; lane < BYTES / 8; ++lane) {
    sums[kDeltaL1] += lanes.delta_l1[lane];
    sums[kPrevL1] += lanes.prev_l1[lane];
    sums[kMoved] += static_cast<double>(lanes.moved[lane]);
    sums[kRatioSum] += lanes.ratio_sum[lane];
  }
}
