// One chunk of an optimizer's step: it reads weights, gradients and states once, writes the new weights and states, and
// adds up the sums of |w - prev| and the rest in the same loop.
//
// optimizer_step.cpp includes this file once per instruction set, in the way of lane_sums.h, which it includes.
//
// The operations and their order are those of torch's fused optimizers on the CPU, with a fused multiply-add where
// those have one, so that the weights get the same bits. 16-bit values become float32 first and are rounded when
// stored. The weights of a chunk that do not fill a register go through the same code, so it does not matter where a
// weight lies.

#include "lane_sums.h"

// ---- What the vector types of the compiler lack: a * b + c with one rounding, and square roots.

inline F32 multiply_add(F32 a, F32 b, F32 c) {
#if defined(__x86_64__) && BYTES == 64
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__x86_64__) && BYTES == 32
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;  // SSE2 has none
#endif
}

inline F64 multiply_add(F64 a, F64 b, F64 c) {
#if defined(__x86_64__) && BYTES == 64
  return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__x86_64__) && BYTES == 32
  return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (F64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

// The product, rounded. The compiler does not see where it comes from, so it cannot fuse it with an addition.
template <typename Wide>
inline Wide rounded_product(Wide a, Wide b) {
  Wide product = a * b;
#if defined(__x86_64__)
  __asm__("" : "+v"(product));
#elif defined(__aarch64__)
  __asm__("" : "+w"(product));
#endif
  return product;
}

inline F32 square_root(F32 x) {
#if defined(__x86_64__) && BYTES == 64
  return (F32)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__x86_64__) && BYTES == 32
  return (F32)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
  return (F32)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
  return (F32)vsqrtq_f32((float32x4_t)x);
#else
  for (int64_t lane = 0; lane < BYTES / 4; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
#endif
}

inline F64 square_root(F64 x) {
#if defined(__x86_64__) && BYTES == 64
  return (F64)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#elif defined(__x86_64__) && BYTES == 32
  return (F64)_mm256_sqrt_pd((__m256d)x);
#elif defined(__x86_64__)
  return (F64)_mm_sqrt_pd((__m128d)x);
#elif defined(__aarch64__)
  return (F64)vsqrtq_f64((float64x2_t)x);
#else
  for (int64_t lane = 0; lane < BYTES / 8; ++lane) x[lane] = std::sqrt(x[lane]);
  return x;
#endif
}

// The larger one; NaN if one of them is NaN.
template <typename Wide>
inline Wide maximum(Wide x, Wide y) {
  return (x > y) | (x != x) ? x : y;
}

// ---- Rounding to the stored dtype: the opposite of Type::widen. To nearest, ties to even.

inline void narrow(Float32, const F32* from, float* to) { std::memcpy(to, from, BYTES); }
inline void narrow(Float64, const F64* from, double* to) { std::memcpy(to, from, BYTES); }

inline U32 upper_half_rounded(F32 x) {  // the lower half of each word is then without meaning
  const U32 bits = (U32)x, is_nan = (U32)(x != x);
  return ((bits + 0x7fffu + ((bits >> 16) & 1u)) & ~is_nan) | (is_nan & 0x7fc00000u);
}
inline void narrow(BFloat16, const F32* from, uint16_t* to) {
  const U32 words = (upper_half_rounded(from[0]) >> 16) | (upper_half_rounded(from[1]) & 0xffff0000u);
  std::memcpy(to, &words, BYTES);
}

inline uint16_t half_of(float x) {
  uint32_t bits = load<uint32_t>(&x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65,520 and above become infinite
  if (bits < 0x38800000u) {                                               // below 2^-14: a multiple of 2^-24
    const float shifted = load<float>(&bits) + 0.5f;                      // whose last bit is 2^-24 too
    return static_cast<uint16_t>(sign | (load<uint32_t>(&shifted) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13);
}
inline void narrow(Float16, const F32* from, uint16_t* to) {
  constexpr int64_t half = BYTES / 4;
#if defined(__x86_64__) && BYTES == 64
  for (int64_t j = 0; j < 2; ++j) {
    const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, (__m512)from[j], _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(to + j * half, &halves, sizeof(halves));
  }
#elif defined(__x86_64__) && BYTES == 32
  for (int64_t j = 0; j < 2; ++j) {
    const __m128i halves = _mm256_cvtps_ph((__m256)from[j], _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(to + j * half, &halves, sizeof(halves));
  }
#else
  for (int64_t i = 0; i < 2 * half; ++i) to[i] = half_of(from[i / half][i % half]);
#endif
}

// ---- The rules. Each moves the weights of one register, and gives the stored weights before and after.

// The tensors of a chunk, each from its first weight on. A null address is never read.
template <typename T>
struct Streams {
  T* weights;
  T* gradients;
  T* states[kMaxStates];
};

template <typename Type>
struct RuleOf {
  using T = typename Type::T;
  using Wide = typename Type::Wide;
  using Scalar = decltype(Type::widen(T{}));
  static constexpr int64_t kWide = Type::kWide;

  static Wide splat(double x) { return Wide{} + static_cast<Scalar>(x); }

  const Streams<T> at;
  const bool scaled, maximize, decays_gradient;
  const Wide scale, weight_decay;

  RuleOf(const Numbers& of, const Streams<T>& at)
      : at(at),
        scaled(of.scaled),
        maximize(of.maximize),
        decays_gradient(of.decays_gradient),
        scale(splat(of.scale)),
        weight_decay(splat(of.weight_decay)) {}

  // The gradient of the weights `w`, upwards if the rule maximizes. If it was scaled, the true one is stored.
  void load_gradient(int64_t i, const Wide* w, Wide* g) const {
    Type::widen(at.gradients + i, g);
    if (__builtin_expect(scaled, false)) {
      for (int64_t j = 0; j < kWide; ++j) g[j] /= scale;
      narrow(Type{}, g, at.gradients + i);
    }
    if (__builtin_expect(maximize, false))
      for (int64_t j = 0; j < kWide; ++j) g[j] = -g[j];
    if (decays_gradient)
      for (int64_t j = 0; j < kWide; ++j) g[j] = multiply_add(w[j], weight_decay, g[j]);
  }
};

// Adam and AdamW:  m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g g;
//                  w -= lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
template <typename Type>
struct Adam : RuleOf<Type> {
  using typename RuleOf<Type>::T;
  using typename RuleOf<Type>::Wide;
  using RuleOf<Type>::kWide, RuleOf<Type>::splat, RuleOf<Type>::at;
  static constexpr int64_t kStates = 2;  // at least; amsgrad has a third

  const bool far_lerp, amsgrad;
  const Wide weight_factor, lerp, beta2, square_factor, root_correction, eps, rate;

  Adam(const Numbers& of, const Streams<T>& at)
      : RuleOf<Type>(of, at),
        far_lerp(1 - of.beta1 >= 0.5),
        amsgrad(at.states[2] != nullptr),
        weight_factor(splat(of.weight_factor)),
        lerp(far_lerp ? splat(1 - of.beta1) - splat(1.0) : splat(1 - of.beta1)),
        beta2(splat(of.beta2)),
        square_factor(splat(1 - of.beta2)),
        root_correction(splat(of.root_correction)),
        eps(splat(of.eps)),
        rate(splat(-of.rate)) {}

  // Moves the register that starts at weight i.
  void move(int64_t i, Wide* before, Wide* after) const {
    Wide g[kWide], m[kWide], v[kWide];
    Type::widen(at.weights + i, before);
    this->load_gradient(i, before, g);
    Type::widen(at.states[0] + i, m);
    Type::widen(at.states[1] + i, v);
    for (int64_t j = 0; j < kWide; ++j) {
      const Wide start = __builtin_expect(far_lerp, false) ? g[j] : m[j];
      m[j] = multiply_add(lerp, g[j] - m[j], start);
      v[j] = multiply_add(square_factor * g[j], g[j], v[j] * beta2);
    }
    narrow(Type{}, m, at.states[0] + i);
    narrow(Type{}, v, at.states[1] + i);
    if (__builtin_expect(amsgrad, false)) {
      Wide largest[kWide];
      Type::widen(at.states[2] + i, largest);
      for (int64_t j = 0; j < kWide; ++j) v[j] = maximum(largest[j], v[j]);
      narrow(Type{}, v, at.states[2] + i);
    }
    for (int64_t j = 0; j < kWide; ++j) {
      const Wide root = square_root(v[j]) / root_correction + eps;
      after[j] = rounded_product(before[j], weight_factor) + rate * m[j] / root;
    }
    narrow(Type{}, after, at.weights + i);
    if constexpr (kWide > 1) Type::widen(at.weights + i, after);  // they were rounded
  }
};

// SGD:  b = momentum b + (1 - dampening) g, or g the first time;  w -= lr b, or lr (g + momentum b) with Nesterov
template <typename Type>
struct Sgd : RuleOf<Type> {
  using typename RuleOf<Type>::T;
  using typename RuleOf<Type>::Wide;
  using RuleOf<Type>::kWide, RuleOf<Type>::splat, RuleOf<Type>::at;
  static constexpr int64_t kStates = 1;  // or none

  const bool has_momentum, is_new, nesterov;
  const Wide momentum, gradient_factor, rate;

  Sgd(const Numbers& of, const Streams<T>& at)
      : RuleOf<Type>(of, at),
        has_momentum(at.states[0] != nullptr),
        is_new(of.new_state),
        nesterov(of.nesterov),
        momentum(splat(of.momentum)),
        gradient_factor(splat(1 - of.dampening)),
        rate(splat(-of.rate)) {}

  // Moves the register that starts at weight i.
  void move(int64_t i, Wide* before, Wide* after) const {
    Wide g[kWide];
    Type::widen(at.weights + i, before);
    this->load_gradient(i, before, g);
    if (has_momentum) {
      Wide b[kWide];
      if (__builtin_expect(is_new, false)) {
        for (int64_t j = 0; j < kWide; ++j) b[j] = g[j];
      } else {
        Type::widen(at.states[0] + i, b);
        for (int64_t j = 0; j < kWide; ++j) b[j] = multiply_add(g[j], gradient_factor, b[j] * momentum);
      }
      narrow(Type{}, b, at.states[0] + i);
      if (nesterov) {
        for (int64_t j = 0; j < kWide; ++j) g[j] = multiply_add(b[j], momentum, g[j]);
      } else {
        for (int64_t j = 0; j < kWide; ++j) g[j] = b[j];
      }
    }
    for (int64_t j = 0; j < kWide; ++j) after[j] = multiply_add(g[j], rate, before[j]);
    narrow(Type{}, after, at.weights + i);
    if constexpr (kWide > 1) Type::widen(at.weights + i, after);  // they were rounded
  }
};

// Nothing moves.
template <typename Type>
struct Still : RuleOf<Type> {
  using typename RuleOf<Type>::T;
  using typename RuleOf<Type>::Wide;
  static constexpr int64_t kStates = 0;

  Still(const Numbers& of, const Streams<T>& at) : RuleOf<Type>(of, at) {}

  void move(int64_t i, Wide* before, Wide* after) const {
    Type::widen(this->at.weights + i, before);
    for (int64_t j = 0; j < Type::kWide; ++j) after[j] = before[j];
  }
};

// ---- One chunk.

// Fetches what a block of registers will read, a line of the cache at a time.
template <int64_t kStates, typename T>
inline void prefetch(const Streams<T>& at, int64_t i) {
  constexpr int64_t kAhead = kPrefetchBytes / sizeof(T);
  for (int64_t line = 0; line < kDepth * BYTES; line += 64) {
    const int64_t later = i + kAhead + line / static_cast<int64_t>(sizeof(T));
    __builtin_prefetch(at.weights + later, /*rw=*/1);
    __builtin_prefetch(at.gradients + later);
    for (int64_t state = 0; state < kStates; ++state) __builtin_prefetch(at.states[state] + later, /*rw=*/1);
  }
}

// Moves the last n weights from i on, which fill no register, in copies that do. Calls add(stored, prev) for each.
template <template <typename> class RuleFor, typename Type, typename Add>
void move_rest(const Numbers& numbers, const Streams<typename Type::T>& at, int64_t i, int64_t n, Add add) {
  using T = typename Type::T;
  constexpr int64_t kLanes = BYTES / sizeof(T);
  T weights[kLanes] = {}, gradients[kLanes] = {}, states[kMaxStates][kLanes] = {};
  Streams<T> copies{weights, gradients, {}};
  std::memcpy(weights, at.weights + i, n * sizeof(T));
  if (at.gradients) std::memcpy(gradients, at.gradients + i, n * sizeof(T));
  for (int64_t k = 0; k < kMaxStates; ++k)
    if (at.states[k]) {
      copies.states[k] = states[k];
      std::memcpy(states[k], at.states[k] + i, n * sizeof(T));
    }
  typename Type::Wide before[Type::kWide], after[Type::kWide];
  const RuleFor<Type> rule(numbers, copies);
  rule.move(0, before, after);
  for (int64_t lane = 0; lane < n; ++lane) add(weights[lane], at.weights[i + lane]);
  std::memcpy(at.weights + i, weights, n * sizeof(T));
  if (rule.scaled) std::memcpy(at.gradients + i, gradients, n * sizeof(T));
  for (int64_t k = 0; k < kMaxStates; ++k)
    if (at.states[k]) std::memcpy(at.states[k] + i, states[k], n * sizeof(T));
}

// Moves the n weights of a chunk. If kSums is not 0, it also writes their sums to sums [kSums].
template <template <typename> class RuleFor, typename Type, int64_t kSums>
void step_chunk(const Numbers& numbers, const Addresses& from, int64_t n, double* sums) {
  using T = typename Type::T;
  using Rule = RuleFor<Type>;
  constexpr int64_t kLanes = BYTES / sizeof(T), kWide = Type::kWide;
  Streams<T> at{reinterpret_cast<T*>(from.weights), reinterpret_cast<T*>(from.gradients), {}};
  for (int64_t k = 0; k < kMaxStates; ++k) at.states[k] = reinterpret_cast<T*>(from.states[k]);
  const Rule rule(numbers, at);
  PairSums<Type, has_ratio(kSums), has_l2(kSums)> total;

  int64_t i = 0;
  const auto move = [&](int64_t registers) {
    for (const int64_t end = i + registers * kLanes; i < end; i += kLanes) {
      typename Type::Wide before[kWide], after[kWide];
      rule.move(i, before, after);
      if constexpr (kSums)
        for (int64_t j = 0; j < kWide; ++j) total.add(j, after[j], before[j]);
    }
    if constexpr (kSums) total.flush();
  };
  while (n - i >= kDepth * kLanes) {
    prefetch<Rule::kStates>(at, i);
    move(kDepth);
  }
  move((n - i) / kLanes);
  if (i < n) {
    const auto add = [&](T stored, T prev) {
      if constexpr (kSums) total.add_scalar(Type::widen(stored), Type::widen(prev));
    };
    move_rest<RuleFor, Type>(numbers, at, i, n - i, add);
  }
  if constexpr (kSums) total.write(sums);
}
