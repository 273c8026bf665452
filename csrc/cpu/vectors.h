// The vector registers of one instruction set, and how the weights of each dtype fill them.
//
// A source file includes this file once per instruction set, each time in another namespace and with BYTES defined as
// the bytes of a vector register. The code uses the vector types of GCC and Clang, so one source serves AVX-512, AVX2,
// SSE2 and NEON. A cast between vector types of the same size keeps the bits.

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
