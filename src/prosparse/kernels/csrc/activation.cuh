// The activation function between the gate and everything after it.
#pragma once

struct Activation {
  float threshold;  // already rounded to X
  float shift;

  // FATReLU; ties are kept and NaN stays NaN.
  __device__ __forceinline__ float operator()(float pre) const {
    if (shift != 0.0f) pre = rounded(pre - shift);
    return pre < threshold ? 0.0f : pre;
  }
};
