// The CUDA kernels of csrc/cuda, run on the CPU. A block's threads are fibers of one thread of the CPU that take turns:
// every index, barrier and shuffle is carried out as it is written. What this cannot show is speed, the memory model of
// a GPU, what nvcc makes of the code, and races between blocks. Linux only (ucontext).
//
// Turns: a warp runs as far as it can before the next warp begins, so that it may be a whole phase ahead of the others;
// that is what a missing barrier needs in order to show. WSF_TURNS is 0 (or unset) for warps in order, 1 for backwards,
// or the seed of a random order. Threads that wait at different barriers, and 16-byte accesses at other addresses, end
// the process with the block and the thread.
//
// KERNELS is the file with the kernels. They are compiled with CUDA's own headers, whose 16-bit types work on the host.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 64 * 1024;

// A place where threads wait for one another: a block's barrier, or a warp's shuffle.
struct Barrier {
  unsigned members = 0, waiting = 0;
  uint64_t generation = 0;
};

struct Thread {
  uint3 index{};
  jmp_buf place;  // where it goes on
  bool started = false, finished = false;
  Barrier* barrier = nullptr;  // where it waits
  uint64_t generation = 0;     // that of the barrier when it came

  bool can_run() const { return !finished && (barrier == nullptr || barrier->generation != generation); }
};

struct Block {
  uint3 index{};
  std::vector<Thread> threads;
  std::vector<Barrier> warps;
  Barrier all;
  std::vector<uint64_t> offered;  // by each thread to the shuffle of its warp
  std::function<void()> kernel;
  Thread* running = nullptr;
  jmp_buf scheduler;
};

thread_local Block* block = nullptr;

[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "cuda_on_cpu: block (%u, %u), thread %u: %s\n", block->index.x, block->index.y,
               block->running ? block->running->index.x : 0, why);
  std::abort();
}

void wait_at(Barrier& barrier) {
  Thread& self = *block->running;
  if (++barrier.waiting == barrier.members) {
    barrier.waiting = 0;
    ++barrier.generation;
    return;
  }
  self.barrier = &barrier;
  self.generation = barrier.generation;
  if (_setjmp(self.place) == 0) _longjmp(block->scheduler, 1);  // without a system call, which swapcontext makes
}

void thread_main() {
  block->kernel();
  block->running->finished = true;
  _longjmp(block->scheduler, 1);
}

char* stack_of(unsigned thread) {  // the same memory for every block; pages that are not touched cost nothing
  static thread_local char* memory = static_cast<char*>(
      mmap(nullptr, 1024 * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return memory + thread * kStackBytes;
}

void resume(Thread& thread) {
  block->running = &thread;
  thread.barrier = nullptr;
  if (_setjmp(block->scheduler) != 0) return;  // it waits, or has ended
  if (thread.started) _longjmp(thread.place, 1);
  thread.started = true;
  ucontext_t beginning;
  getcontext(&beginning);
  beginning.uc_stack.ss_sp = stack_of(thread.index.x);
  beginning.uc_stack.ss_size = kStackBytes;
  beginning.uc_link = nullptr;
  makecontext(&beginning, thread_main, 0);
  setcontext(&beginning);
}

// Numbers 0 to n - 1 in the order of WSF_TURNS.
std::vector<unsigned> turns(unsigned n, std::minstd_rand& random, int order) {
  std::vector<unsigned> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == 1) std::reverse(numbers.begin(), numbers.end());
  if (order > 1) std::shuffle(numbers.begin(), numbers.end(), random);
  return numbers;
}

void run_block(uint3 index, unsigned threads, const std::function<void()>& kernel, std::minstd_rand& random,
               int order) {
  Block here;
  block = &here;
  here.index = index;
  here.kernel = kernel;
  here.threads = std::vector<Thread>(threads);
  here.warps = std::vector<Barrier>((threads + kWarp - 1) / kWarp);
  here.offered.resize(threads);
  here.all.members = threads;
  for (unsigned t = 0; t < threads; ++t) {
    here.threads[t].index.x = t;
    ++here.warps[t / kWarp].members;
  }
  const std::vector<unsigned> warps = turns(here.warps.size(), random, order), lanes = turns(kWarp, random, order);
  const auto run_warp = [&](unsigned warp) {  // whether any of its threads could run
    bool ran = false;
    for (unsigned lane : lanes) {
      const unsigned t = warp * kWarp + lane;
      if (t >= threads || !here.threads[t].can_run()) continue;
      resume(here.threads[t]);
      ran = true;
    }
    return ran;
  };
  while (std::any_of(here.threads.begin(), here.threads.end(), [](const Thread& t) { return !t.finished; }))
    if (std::none_of(warps.begin(), warps.end(), run_warp))
      fail("threads wait at different barriers, or one has ended");
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments... arguments) {
  const char* setting = std::getenv("WSF_TURNS");
  const int order = setting ? std::atoi(setting) : 0;
  std::minstd_rand random(static_cast<unsigned>(order));
  const dim3 grid = config->gridDim;
  for (unsigned b : turns(grid.x * grid.y, random, order))
    run_block(
        uint3{b % grid.x, b / grid.x, 0}, config->blockDim.x, [&] { kernel(static_cast<Parameters>(arguments)...); },
        random, order);
  return cudaSuccess;
}

template <typename T>
T shuffle_down(unsigned mask, T value, unsigned step) {
  if (mask != 0xffffffffu) fail("only whole warps shuffle here");
  const unsigned t = block->running->index.x;
  Barrier& warp = block->warps[t / kWarp];
  std::memcpy(&block->offered[t], &value, sizeof(T));
  wait_at(warp);
  T got = value;
  if (t % kWarp + step < kWarp) std::memcpy(&got, &block->offered[t + step], sizeof(T));
  wait_at(warp);  // all have read
  return got;
}

template <typename T>
T* aligned(T* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T)) fail("an access of 16 bytes at another address");
  return address;
}

template <typename To, typename From>
To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &value, sizeof(To));
  return to;
}

struct NoDeviceGuard {
  explicit NoDeviceGuard(int32_t) {}
};

}  // namespace cuda_on_cpu

namespace torch::stable::accelerator {
using cuda_on_cpu::NoDeviceGuard;
}

// CUDA's words, from here on in the sense of this file.
using std::max;
using std::min;
#define __float_as_int cuda_on_cpu::same_bits<int>
#define __int_as_float cuda_on_cpu::same_bits<float>
#define __double_as_longlong cuda_on_cpu::same_bits<long long>
#define __longlong_as_double cuda_on_cpu::same_bits<double>
#define threadIdx (cuda_on_cpu::block->running->index)
#define blockIdx (cuda_on_cpu::block->index)
#define __syncthreads() cuda_on_cpu::wait_at(cuda_on_cpu::block->all)
#define __shfl_down_sync cuda_on_cpu::shuffle_down
#define __ldcg(address) (*cuda_on_cpu::aligned(address))
#define __ldcs(address) (*cuda_on_cpu::aligned(address))
#define __stcs(address, value) (*cuda_on_cpu::aligned(address) = (value))
#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)
#define cudaGetErrorString(error) "none"
#define cudaLaunchKernelEx cuda_on_cpu::launch
#define __CUDA_RUNTIME_H__  // cuda_runtime.h would declare what stands above
#define DeviceGuard NoDeviceGuard
#define CUDA CPU  // the dispatch key that the kernels are registered for

#include KERNELS
