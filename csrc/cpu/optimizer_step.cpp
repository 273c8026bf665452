// The step of SGD, Adam and AdamW on the CPU: weightscale_fast::optimizer_step for the CPU dispatch key. Python defines
// the schema (weightscale_fast/ops/register.py); this file implements it.
//
// One thread takes each chunk of a parameter: it reads weights, gradients and states once, writes weights and states,
// and gives K float64 partial sums. The partial sums of each parameter are then added in the order of its chunks. It
// does not matter which thread took a chunk, so the bits do not depend on the number of threads.
//
// Adam with sums reads 16 bytes of a float32 weight and writes 12, as without: the sums are of values in registers.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "../plan.h"
#include "../step_table.h"
#include "isa.h"

namespace weightscale_fast {
namespace {

constexpr int64_t kChunk = 16 * 1024;           // weights
constexpr int64_t kElementsPerRun = 64 * 1024;  // a thread takes about this many weights at a time
constexpr int64_t kPrefetchBytes = 2048;
constexpr int64_t kMaxStates = 3;

// What one parameter is stepped with, in float64. The kernels round it to their own type.
struct Numbers {
  Rule rule;
  bool maximize, nesterov, new_state, scaled, decays_gradient;
  double scale;                               // of the gradients
  double rate;                                // lr, for Adam lr / (1 - beta1^t)
  double weight_decay;                        // that is added to the gradient
  double weight_factor;                       // 1 - lr * weight_decay of AdamW
  double beta1, beta2, eps, root_correction;  // sqrt(1 - beta2^t)
  double momentum, dampening;
};

// Where the tensors of a parameter or of a chunk start; null where there is none.
struct Addresses {
  char* weights;
  char* gradients;
  char* states[kMaxStates];

  Addresses from(int64_t bytes) const {
    Addresses later{weights + bytes, gradients ? gradients + bytes : nullptr, {}};
    for (int64_t i = 0; i < kMaxStates; ++i) later.states[i] = states[i] ? states[i] + bytes : nullptr;
    return later;
  }
};

#if defined(__x86_64__)
WSF_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
namespace avx512 {
#define BYTES 64
#include "optimizer_step.h"
#undef BYTES
}  // namespace avx512
WSF_TARGET_END

WSF_TARGET_BEGIN("avx2,fma,f16c")
namespace avx2 {
#define BYTES 32
#include "optimizer_step.h"
#undef BYTES
}  // namespace avx2
WSF_TARGET_END
#endif

namespace baseline {  // always available: SSE2 on x86-64, NEON on AArch64
#define BYTES 16
#include "optimizer_step.h"
#undef BYTES
}  // namespace baseline

using StepChunk = void (*)(const Numbers&, const Addresses&, int64_t n, double* sums);

#define WSF_PICK_SUMS(isa, RuleFor, Type)                 \
  (K == 0   ? isa::step_chunk<isa::RuleFor, isa::Type, 0> \
   : K == 3 ? isa::step_chunk<isa::RuleFor, isa::Type, 3> \
   : K == 6 ? isa::step_chunk<isa::RuleFor, isa::Type, 6> \
            : isa::step_chunk<isa::RuleFor, isa::Type, 7>)
#define WSF_PICK_RULE(isa, Type)                    \
  (rule == kStill ? WSF_PICK_SUMS(isa, Still, Type) \
   : rule == kSgd ? WSF_PICK_SUMS(isa, Sgd, Type)   \
                  : WSF_PICK_SUMS(isa, Adam, Type))

#if defined(__x86_64__)
#define WSF_PICK(Type)                                                \
  (register_bytes >= 64 && has_avx512() ? WSF_PICK_RULE(avx512, Type) \
   : register_bytes >= 32 && has_avx2() ? WSF_PICK_RULE(avx2, Type)   \
                                        : WSF_PICK_RULE(baseline, Type))
#else
#define WSF_PICK(Type) WSF_PICK_RULE(baseline, Type)
#endif

StepChunk pick_step_chunk(int64_t dtype, Rule rule, int64_t K, int64_t register_bytes) {
  using torch::headeronly::ScalarType;
  switch (static_cast<ScalarType>(dtype)) {
    case ScalarType::Float: return WSF_PICK(Float32);
    case ScalarType::Double: return WSF_PICK(Float64);
    case ScalarType::BFloat16: return WSF_PICK(BFloat16);
    case ScalarType::Half: return WSF_PICK(Float16);
    default: STD_TORCH_CHECK(false, "optimizer_step: expected float32, float64, bfloat16 or float16 weights");
  }
}

int64_t bytes_of(int64_t dtype) {
  using torch::headeronly::ScalarType;
  const auto type = static_cast<ScalarType>(dtype);
  return type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
}

using torch::stable::Tensor;

// beta1 and beta2 to the power of the same number of steps, for as long as these do not change.
struct Powers {
  double beta1 = 0, beta2 = 0, steps = -1, of_beta1 = 0, of_beta2 = 0;

  void take(double new_beta1, double new_beta2, double new_steps) {
    if (new_beta1 == beta1 && new_beta2 == beta2 && new_steps == steps) return;
    beta1 = new_beta1, beta2 = new_beta2, steps = new_steps;
    of_beta1 = std::pow(beta1, steps), of_beta2 = std::pow(beta2, steps);
  }
};

// Counts one step more, and returns how many there are now.
double count_step(int64_t address, int64_t bytes) {
  if (bytes == 8) return *reinterpret_cast<double*>(address) += 1;
  return *reinterpret_cast<float*>(address) += 1;
}

// The two tables by name: table(row, column).
struct Table {
  const Tensor& of;
  int64_t columns = of.size(1);
  int64_t operator()(ParameterRow row, int64_t p) const { return of.const_data_ptr<int64_t>()[row * columns + p]; }
  double operator()(GroupRow row, int64_t g) const { return of.const_data_ptr<double>()[row * columns + g]; }
};

// The numbers of parameter p. Adam's number of steps is counted here.
Numbers numbers_of(const Table& parameters, const Table& groups, int64_t p, const Tensor& scale, Powers& powers) {
  const int64_t g = parameters(kGroup, p);
  Numbers of{};
  of.rule = static_cast<Rule>(static_cast<int64_t>(groups(kRule, g)));
  if (of.rule == kStill) return of;
  of.scaled = scale.numel() == 1;
  of.scale = of.scaled ? *scale.const_data_ptr<float>() : 1.0;
  of.maximize = groups(kMaximize, g) != 0;
  of.rate = groups(kRate, g);
  of.weight_decay = groups(kWeightDecay, g);
  of.weight_factor = 1.0;
  of.decays_gradient = of.weight_decay != 0 && of.rule != kAdamW;
  if (of.rule == kSgd) {
    of.momentum = groups(kMomentum, g);
    of.dampening = groups(kDampening, g);
    of.nesterov = groups(kNesterov, g) != 0;
    of.new_state = parameters(kNewState, p) != 0;
    return of;
  }
  if (of.rule == kAdamW) {
    of.weight_factor = 1 - of.rate * of.weight_decay;
  }
  of.beta1 = groups(kBeta1, g);
  of.beta2 = groups(kBeta2, g);
  of.eps = groups(kEps, g);
  powers.take(of.beta1, of.beta2, count_step(parameters(kStepAddress, p), parameters(kStepBytes, p)));
  of.rate /= 1 - powers.of_beta1;
  of.root_correction = std::sqrt(1 - powers.of_beta2);
  return of;
}

void optimizer_step_cpu(const Tensor& parameters,  // [11, P] int64, see ParameterRow
                        const Tensor& groups,      // [7, G] float64, see GroupRow
                        const Tensor& scale,       // [1] float32, what the gradients are divided by; [0] for nothing
                        Tensor sums,               // [K, P] float64; K is 0, 3, 6 or 7
                        int64_t register_bytes) {  // the widest registers to use: 64, 32 or 16
  const int64_t P = parameters.size(1), K = sums.size(0);
  STD_TORCH_CHECK(parameters.size(0) == kParameterRows && groups.size(0) == kGroupRows && sums.size(1) == P &&
                      (K == 0 || K == 3 || has_l2(K)) && scale.numel() <= 1,
                  "optimizer_step: the tables do not fit each other");
  STD_TORCH_CHECK(parameters.is_contiguous() && groups.is_contiguous() && sums.is_contiguous(),
                  "optimizer_step: the tables and the sums must be contiguous");
  const Table table{parameters}, group_table{groups};

  struct Parameter {
    Numbers numbers;
    Addresses addresses;
    StepChunk step_chunk;
    int64_t bytes, first_chunk;  // of one weight
  };
  std::vector<Parameter> stepped(P);
  std::vector<int64_t> owner;  // of each chunk
  Powers powers;
  int64_t elements = 0;
  for (int64_t p = 0; p < P; ++p) {
    const auto address = [&](ParameterRow row) { return reinterpret_cast<char*>(table(row, p)); };
    Parameter& of = stepped[p];
    of.numbers = numbers_of(table, group_table, p, scale, powers);
    of.addresses = {address(kWeightAddress),
                    address(kGradientAddress),
                    {address(kFirstStateAddress), address(kSecondStateAddress), address(kThirdStateAddress)}};
    of.step_chunk = pick_step_chunk(table(kDtype, p), of.numbers.rule, K, register_bytes);
    of.bytes = bytes_of(table(kDtype, p));
    of.first_chunk = static_cast<int64_t>(owner.size());
    elements += table(kWeights, p);
    owner.insert(owner.end(), (table(kWeights, p) + kChunk - 1) / kChunk, p);
  }
  const int64_t C = static_cast<int64_t>(owner.size());
  std::vector<double> partial(K * C);

  const int64_t runs = std::max<int64_t>(1, std::min(C, elements / kElementsPerRun));
  const int64_t threads = std::min(runs, static_cast<int64_t>(torch::stable::get_num_threads()));
  std::atomic<int64_t> next_run{0};  // a thread takes the next run of chunks when it is free
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t run; (run = next_run.fetch_add(1, std::memory_order_relaxed)) < runs;)
      for (int64_t c = run * C / runs; c < (run + 1) * C / runs; ++c) {
        const Parameter& of = stepped[owner[c]];
        const int64_t start = (c - of.first_chunk) * kChunk;
        const int64_t n = std::min(kChunk, table(kWeights, owner[c]) - start);
        double chunk_sums[kMaxSums];
        of.step_chunk(of.numbers, of.addresses.from(start * of.bytes), n, chunk_sums);
        for (int64_t k = 0; k < K; ++k) partial[c * K + k] = chunk_sums[k];
      }
  });

  if (K == 0) return;
  double* out = sums.mutable_data_ptr<double>();
  std::fill(out, out + K * P, 0.0);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t k = 0; k < K; ++k) {
      double& total = out[k * P + owner[c]];
      const double part = partial[c * K + k];
      total = k == kDeltaMax ? larger_or_nan(total, part) : total + part;
    }
}

}  // namespace
}  // namespace weightscale_fast

STABLE_TORCH_LIBRARY_IMPL(weightscale_fast, CPU, m) {
  m.impl("optimizer_step", TORCH_BOX(&weightscale_fast::optimizer_step_cpu));
}
