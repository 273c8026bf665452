// Instruction sets: how to compile a part of a file for one of them, and whether this processor has it.

#pragma once

#define WSF_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define WSF_TARGET_BEGIN(isa) WSF_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define WSF_TARGET_END WSF_PRAGMA(clang attribute pop)
#else
#define WSF_TARGET_BEGIN(isa) WSF_PRAGMA(GCC push_options) WSF_PRAGMA(GCC target(isa))
#define WSF_TARGET_END WSF_PRAGMA(GCC pop_options)
#endif

#if defined(__x86_64__)
namespace weightscale_fast {
inline bool has_avx512() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has;
}
inline bool has_avx2() {
  static const bool has =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  return has;
}
}  // namespace weightscale_fast
#endif
