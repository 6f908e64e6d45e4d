// SPDX-License-Identifier: Apache-2.0
// The three steps of the FFN in pieces that threads can take: `gate_chunk`, `up_unit`, `down_tile`.
// Which thread takes a piece changes no number. Included once by each variant_*.cpp.
#pragma once

#include "rows.h"

namespace prosparse {
namespace {

constexpr int64_t GATE_BYTES_AHEAD = 4096; // how far ahead of a stream lines are asked for
constexpr int64_t ROWS_AT_ONCE = 4;        // the next as many are asked for meanwhile
constexpr int64_t ROWS_OF_A_SUM = 256;     // long sums lose bits: these are added up first

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Call `function` with a pointer type that tells the kind of the numbers.
template <typename Function>
inline void with_kind(int32_t kind, Function function) {
  switch (kind) {
    case FLOAT32: function(static_cast<const float*>(nullptr)); break;
    case BFLOAT16: function(static_cast<const Bf16*>(nullptr)); break;
    case FLOAT16: function(static_cast<const Fp16*>(nullptr)); break;
    case INT8: function(static_cast<const int8_t*>(nullptr)); break;
    default: function(static_cast<const Int4x2*>(nullptr));
  }
}

using Dot = void (*)(const Matrix&, const Inputs&, int64_t, const int32_t*, const int32_t*, float*);

inline Dot dot_of(const Matrix& matrix) {
  Dot found = nullptr;
  with_kind(matrix.kind, [&](auto* element) {
    found = dot<std::remove_const_t<std::remove_pointer_t<decltype(element)>>>;
  });
  return found;
}

// FATReLU(pre - shift): ties are kept, and so is NaN.
struct Activation {
  explicit Activation(const Job& job) : threshold(job.threshold), shift(job.shift), kind(job.kind) {}

  float operator()(float pre) const {
    if (shift != 0.0f) pre = rounded(pre - shift, kind);
    return pre < threshold ? 0.0f : pre;
  }

  float threshold, shift;
  int32_t kind;
};

inline int64_t row_bytes(const Matrix& matrix, int64_t width) {
  int64_t found = 0;
  with_kind(matrix.kind, [&](auto* element) {
    found = bytes_of<std::remove_const_t<std::remove_pointer_t<decltype(element)>>>(width);
  });
  return found;
}

// List the neurons [first, last) that some token needs, from a gate that is given; return their end.
template <typename E>
inline int64_t list_given(const Job& job, const Workspace& work, int64_t first, int64_t last) {
  const auto* gate_pre = static_cast<const E*>(job.gate_pre);
  const Activation activate(job);
  const int64_t tokens = job.tokens, d_ff = job.d_ff;
  int64_t found = first;
  for (int64_t f = first; f < last; ++f) {
    bool is_needed = false;
    for (int64_t t = 0; t < tokens; ++t) {
      const float gate = activate(widen(gate_pre[t * d_ff + f]));
      work.values[found * tokens + t] = gate;
      is_needed |= gate != 0.0f; // NaN is needed
    }
    work.rows[found] = static_cast<int32_t>(f);
    found += is_needed;
  }
  return found;
}

// The same of a gate that is computed here.
inline int64_t list_computed(const Job& job, const Workspace& work, int64_t first, int64_t last) {
  const Activation activate(job);
  const Dot product = dot_of(job.gate);
  const Inputs inputs{work.x_of_gate, work.split_of_gate, job.tokens, work.stride, job.d_model};
  const int64_t tokens = job.tokens;
  const auto distance = static_cast<int32_t>(GATE_BYTES_AHEAD / row_bytes(job.gate, job.d_model));
  int64_t found = first;
  for (int64_t f = first; f < last; f += ROWS_AT_ONCE) {
    const int64_t count = least(ROWS_AT_ONCE, last - f);
    int32_t neurons[ROWS_AT_ONCE], ahead[ROWS_AT_ONCE];
    for (int64_t i = 0; i < count; ++i) {
      neurons[i] = static_cast<int32_t>(f + i);
      ahead[i] = neurons[i] + static_cast<int32_t>(ROWS_AT_ONCE) + distance;
    }
    float gates[ROWS_AT_ONCE * MAX_TOKENS];
    product(job.gate, inputs, count, neurons, ahead, gates);
    for (int64_t i = 0; i < count; ++i) {
      const float bias = job.gate_bias ? get(job.gate_bias, job.kind, f + i) : 0.0f;
      bool is_needed = false;
      for (int64_t t = 0; t < tokens; ++t) {
        float pre = gates[i * tokens + t];
        if (job.gate_bias) pre += bias;
        const float gate = activate(rounded(pre, job.kind));
        work.values[found * tokens + t] = gate;
        is_needed |= gate != 0.0f;
      }
      work.rows[found] = neurons[i];
      found += is_needed;
    }
  }
  return found;
}

void gate_chunk(const Job& job, const Workspace& work, int64_t chunk) {
  const int64_t first = chunk * work.neurons_per_chunk;
  const int64_t last = least(first + work.neurons_per_chunk, job.d_ff);
  int64_t end;
  if (!job.gate_pre) {
    end = list_computed(job, work, first, last);
  } else if (job.kind == BFLOAT16) {
    end = list_given<Bf16>(job, work, first, last);
  } else if (job.kind == FLOAT16) {
    end = list_given<Fp16>(job, work, first, last);
  } else {
    end = list_given<float>(job, work, first, last);
  }
  work.counts[chunk] = static_cast<int32_t>(end - first);
}

void project_chunk(const Job& job, const Workspace& work, int64_t chunk) {
  const int64_t first = chunk * work.neurons_per_chunk, tokens = job.tokens;
  const int64_t last = least(first + work.neurons_per_chunk, job.d_ff);
  const Dot product = dot_of(job.gate);
  const Inputs inputs{work.x_of_gate, work.split_of_gate, tokens, work.stride, job.d_model};
  const auto distance = static_cast<int32_t>(GATE_BYTES_AHEAD / row_bytes(job.gate, job.d_model));
  for (int64_t f = first; f < last; f += ROWS_AT_ONCE) {
    const int64_t count = least(ROWS_AT_ONCE, last - f);
    int32_t rows[ROWS_AT_ONCE], ahead[ROWS_AT_ONCE];
    for (int64_t i = 0; i < count; ++i) {
      rows[i] = static_cast<int32_t>(f + i);
      ahead[i] = rows[i] + static_cast<int32_t>(ROWS_AT_ONCE) + distance;
    }
    float sums[ROWS_AT_ONCE * MAX_TOKENS];
    product(job.gate, inputs, count, rows, ahead, sums);
    for (int64_t i = 0; i < count; ++i) {
      const float bias = job.gate_bias ? get(job.gate_bias, job.kind, f + i) : 0.0f;
      for (int64_t t = 0; t < tokens; ++t) {
        const int64_t place = t * job.d_ff + f + i;
        float sum = sums[i * tokens + t];
        if (job.gate_bias) sum += bias;
        if (job.residual) sum += get(job.residual, job.kind, place);
        put(job.x1, job.kind, place, sum);
      }
    }
  }
}

void up_unit(const Job& job, const Workspace& work, int64_t unit) {
  const int64_t first = unit * work.rows_per_unit, tokens = job.tokens;
  const int64_t last = least(first + work.rows_per_unit, work.num_rows);
  const Dot product = dot_of(job.up);
  const Inputs inputs{work.x_of_up, work.split_of_up, tokens, work.stride, job.d_model};
  for (int64_t begin = first; begin < last; begin += ROWS_AT_ONCE) {
    const int64_t count = least(ROWS_AT_ONCE, last - begin);
    const int32_t* neurons = work.rows + begin;
    int32_t ahead[ROWS_AT_ONCE];
    for (int64_t i = 0; i < count; ++i) {
      ahead[i] = work.rows[least(begin + ROWS_AT_ONCE + i, last - 1)];
    }
    float ups[ROWS_AT_ONCE * MAX_TOKENS];
    product(job.up, inputs, count, neurons, ahead, ups);
    for (int64_t i = 0; i < count; ++i) {
      const float bias = job.up_bias ? get(job.up_bias, job.kind, neurons[i]) : 0.0f;
      float* x1 = work.values + (begin + i) * tokens; // holds act(gate)
      for (int64_t t = 0; t < tokens; ++t) {
        if (x1[t] == 0.0f) continue;
        const float sum = ups[i * tokens + t];
        const float up = rounded(job.up_bias ? sum + bias : sum, job.kind);
        x1[t] = rounded(x1[t] * (job.up_relu && up < 0.0f ? 0.0f : up), job.kind);
      }
    }
  }
}

template <typename E>
inline void add_values(float* sums, const E* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += widen(values[i]);
}

template <typename E>
inline void round_values(const float* sums, E* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) round_to(sums[i], values + i);
}

// y [first, last) of one token, from its sum.
template <typename E>
inline void finish(const Job& job, int64_t token, int64_t first, int64_t last, float* sums) {
  const int64_t start = token * job.d_model + first, count = last - first;
  if (job.down_bias) add_values(sums, static_cast<const E*>(job.down_bias) + first, count);
  if (job.residual && job.residual_is_float32) {
    add_values(sums, static_cast<const float*>(job.residual) + start, count);
  } else if (job.residual) {
    add_values(sums, static_cast<const E*>(job.residual) + start, count);
  }
  if (job.y_is_float32) {
    round_values(sums, static_cast<float*>(job.y) + start, count);
  } else {
    round_values(sums, static_cast<E*>(job.y) + start, count);
  }
}

template <typename E>
inline void sum_rows(const Job& job, const Workspace& work, int64_t first, int64_t last,
                     float* sums, int64_t stride) {
  alignas(64) float part[MOST_TILE_FLOATS];
  for (int64_t begin = 0; begin < work.num_rows; begin += ROWS_OF_A_SUM) {
    const int64_t end = least(begin + ROWS_OF_A_SUM, work.num_rows);
    std::memset(part, 0, static_cast<size_t>(job.tokens * stride) * sizeof(float));
    for (int64_t i = begin; i < end;) {
      const int32_t* rows = work.rows + i;
      const float* values = work.values + i * job.tokens;
      const bool is_group = i + ROWS_AT_ONCE <= end;
      const int64_t step = is_group ? ROWS_AT_ONCE : 1;
      int32_t ahead[ROWS_AT_ONCE];
      for (int64_t r = 0; r < step; ++r) ahead[r] = work.rows[least(i + step + r, work.num_rows - 1)];
      if (is_group) {
        add_rows<E, ROWS_AT_ONCE>(job, rows, ahead, values, first, last, part, stride);
      } else {
        add_rows<E, 1>(job, rows, ahead, values, first, last, part, stride);
      }
      i += step;
    }
    for (int64_t i = 0; i < job.tokens * stride; ++i) sums[i] += part[i];
  }
}

// Bring sums from the order of a kind's blocks into that of the columns.
inline void put_in_order(int32_t kind, float* sums, int64_t count) {
  if (kind != BFLOAT16 && kind != INT4) return;
  int64_t places[BLOCK];
  for (int64_t i = 0; i < BLOCK; ++i) places[i] = place_in_block(kind, i);
  for (int64_t c = 0; c < count; c += BLOCK) {
    float block[BLOCK];
    std::memcpy(block, sums + c, sizeof block);
    for (int64_t i = 0; i < BLOCK; ++i) sums[c + i] = block[places[i]];
  }
}

void down_tile(const Job& job, const Workspace& work, int64_t tile) {
  const int64_t first = tile * work.columns_per_tile;
  const int64_t last = least(first + work.columns_per_tile, job.d_model);
  const int64_t stride = work.columns_per_tile;
  alignas(64) float sums[MOST_TILE_FLOATS];
  std::memset(sums, 0, static_cast<size_t>(job.tokens * stride) * sizeof(float));
  with_kind(job.down.kind, [&](auto* element) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    sum_rows<E>(job, work, first, last, sums, stride);
  });
  for (int64_t t = 0; t < job.tokens; ++t) {
    put_in_order(job.down.kind, sums + t * stride, stride);
    if (job.kind == BFLOAT16) {
      finish<Bf16>(job, t, first, last, sums + t * stride);
    } else if (job.kind == FLOAT16) {
      finish<Fp16>(job, t, first, last, sums + t * stride);
    } else {
      finish<float>(job, t, first, last, sums + t * stride);
    }
  }
}

#ifdef __AVX512VNNI__
template <typename E, typename X>
inline void split_all(const Job& job, SplitX& split) {
  const int64_t width = job.d_model;
  auto* spans = static_cast<Span<E>*>(split.spans);
  for (int64_t t = 0; t < job.tokens; ++t) {
    split.is_split[t] =
        split_token<E>(static_cast<const X*>(job.x) + t * width, width,
                       spans + t * spans_of<E>(width), split.scales + t * (width / BYTE_GROUP));
  }
}

void split_for(const Job& job, const Matrix& matrix, SplitX& split) {
  if (matrix.kind == INT8) {
    job.kind == BFLOAT16 ? split_all<int8_t, Bf16>(job, split) : split_all<int8_t, Fp16>(job, split);
  } else {
    job.kind == BFLOAT16 ? split_all<Int4x2, Bf16>(job, split) : split_all<Int4x2, Fp16>(job, split);
  }
}

constexpr auto split_x = split_for;
#else
constexpr decltype(Variant::split_x) split_x = nullptr;
#endif

uint64_t read(const void* data, int64_t num_bytes) {
  constexpr int64_t STEP = 4 * LANES;
  const auto* words = static_cast<const float*>(data);
  const int64_t count = num_bytes / static_cast<int64_t>(sizeof(float));
  Floats sums[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  for (int64_t i = 0; i + STEP <= count; i += STEP) {
    prefetch_bytes(reinterpret_cast<uintptr_t>(words + i) + GATE_BYTES_AHEAD, STEP * 4);
    for (int j = 0; j < 4; ++j) sums[j] = add(sums[j], load(words + i + j * LANES));
  }
  return to_bits(sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))));
}

} // namespace
} // namespace prosparse
