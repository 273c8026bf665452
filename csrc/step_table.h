// The tables of an optimizer's step, as every kernel of it reads them. Python fills them at each step
// (weightscale_fast/optim/table.py).
//
// Letters: P  parameters, G  groups of the optimizer, K  sums per parameter.
#pragma once

#include <cstdint>

namespace weightscale_fast {

// Rows of `parameters` [11, P], int64. An address is 0 where there is no such tensor.
enum ParameterRow : int64_t {
  kWeightAddress = 0,
  kGradientAddress = 1,
  kFirstStateAddress = 2,   // exp_avg of Adam, momentum_buffer of SGD
  kSecondStateAddress = 3,  // exp_avg_sq of Adam
  kThirdStateAddress = 4,   // max_exp_avg_sq of Adam with amsgrad
  kStepAddress = 5,         // the number of steps of Adam, float32 or float64
  kStepBytes = 6,           // of one such number
  kWeights = 7,             // how many
  kDtype = 8,               // a c10::ScalarType
  kGroup = 9,
  kNewState = 10,  // 1 if SGD fills momentum_buffer for the first time, else 0
  kParameterRows = 11,
};

// Rows of `groups` [7, G], float64. SGD and Adam share three of them.
enum GroupRow : int64_t {
  kRule = 0,  // a Rule
  kRate = 1,
  kWeightDecay = 2,
  kMaximize = 3,
  kBeta1 = 4,
  kMomentum = 4,
  kBeta2 = 5,
  kDampening = 5,
  kEps = 6,
  kNesterov = 6,
  kGroupRows = 7,
};

enum Rule : int64_t {
  kStill = 0,  // nothing moves: a gradient scaler found an infinite gradient
  kSgd = 1,
  kAdam = 2,
  kAdamW = 3,
};

}  // namespace weightscale_fast
