// One chunk of the pass: it reads the weights once, adds their sums, and writes prev <- cur.
//
// layer_sums.cpp includes this file once per instruction set, in the way of lane_sums.h, which it includes.
// Order: it depends on the length only, so a chunk gives the same bits on any thread.

#include "lane_sums.h"

// Adds `registers` <= kDepth registers of weights, a multiple of kTogether. If kUpdate, it also stores them at prev.
template <typename Type, bool kUpdate, int64_t kTogether, typename Sums>
inline void add_registers(const typename Type::T* cur, typename Type::T* prev, int64_t registers, Sums& sums) {
  constexpr int64_t kLanes = BYTES / sizeof(typename Type::T);
#pragma GCC unroll 1
  for (int64_t i = 0; i < registers; i += kTogether) {
    __builtin_prefetch(reinterpret_cast<const char*>(cur) + kPrefetchBytes);
    __builtin_prefetch(reinterpret_cast<const char*>(prev) + kPrefetchBytes, /*rw=*/1);
#pragma GCC unroll 4
    for (int64_t r = 0; r < kTogether; ++r, cur += kLanes, prev += kLanes) {
      typename Type::Wide w[Type::kWide], p[Type::kWide];
      Type::widen(cur, w);
      Type::widen(prev, p);
      if constexpr (kUpdate) {
        const U32 stored = load<U32>(cur);
        std::memcpy(prev, &stored, BYTES);
      }
      for (int64_t j = 0; j < Type::kWide; ++j) sums.add(j, w[j], p[j]);
    }
  }
  sums.flush();
}

// Writes the sums of the n weights at cur and prev to sums [K]. If kUpdate, prev <- cur.
template <typename Type, bool kUpdate, bool kRatio, bool kL2>
void chunk_sums(const void* cur_address, void* prev_address, int64_t n, double* sums) {
  using T = typename Type::T;
  constexpr int64_t kLanes = BYTES / sizeof(T);
  const T* cur = static_cast<const T*>(cur_address);
  T* prev = static_cast<T*>(prev_address);
  const T* const end = cur + n;

  // Squares keep the units busy, so their loop has one prefetch for each cache line; more would take time.
  constexpr int64_t kTogether = kL2 ? 64 / BYTES : 1;
  PairSums<Type, kRatio, kL2> lanes;
  for (; end - cur >= kDepth * kLanes; cur += kDepth * kLanes, prev += kDepth * kLanes)
    add_registers<Type, kUpdate, kTogether>(cur, prev, kDepth, lanes);
  const int64_t registers = (end - cur) / kLanes;
  add_registers<Type, kUpdate, 1>(cur, prev, registers, lanes);
  cur += registers * kLanes, prev += registers * kLanes;

  for (; cur < end; ++cur, ++prev) {  // fewer than a register
    lanes.add_scalar(Type::widen(*cur), Type::widen(*prev));
    if constexpr (kUpdate) *prev = *cur;
  }
  lanes.write(sums);
}
