// SPDX-License-Identifier: Apache-2.0
// One row of weights against the tokens: its products with x, and its share of y. Included after one
// simd_*.h. x and y are in the order of the weights' blocks.
#pragma once

namespace prosparse {
namespace {

constexpr int64_t LINE_BYTES = 64;
constexpr int64_t MOST_GROUPS = MOST_TILE_FLOATS / BLOCK + LANES; // of a tile, in whole vectors
constexpr int CHAINS = 4; // sums of one product, which do not wait for each other

template <typename E>
constexpr int64_t VALUES_PER_UNIT = 1;
template <>
constexpr int64_t VALUES_PER_UNIT<Int4x2> = 2;

template <typename E>
constexpr bool IS_QUANTIZED = false;
template <>
constexpr bool IS_QUANTIZED<int8_t> = true;
template <>
constexpr bool IS_QUANTIZED<Int4x2> = true;

template <typename E>
inline const E* advance(const E* data, int64_t values) {
  return data + values / VALUES_PER_UNIT<E>;
}

template <typename E>
inline int64_t bytes_of(int64_t values) {
  return values * static_cast<int64_t>(sizeof(E)) / VALUES_PER_UNIT<E>;
}

template <typename E>
inline uintptr_t address_of(const Matrix& matrix, int64_t values) {
  return reinterpret_cast<uintptr_t>(matrix.values) + static_cast<uintptr_t>(bytes_of<E>(values));
}

// The last block of a row that is no multiple of 32 values, zeros behind them.
template <typename E>
inline Block load_part(const E* data, int64_t count) {
  E padded[BLOCK] = {};
  std::memcpy(padded, data, static_cast<size_t>(count) * sizeof(E));
  return load_block(padded);
}

// out[i] of `count` float16 scales; whole vectors of it are written.
inline void widen_scales(const uint16_t* scales, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(out + i, load_scales(scales + i));
  if (i == count) return;
  uint16_t padded[LANES] = {};
  std::memcpy(padded, scales + i, static_cast<size_t>(count - i) * sizeof(uint16_t));
  store(out + i, load_scales(padded));
}

// Ask for the lines of `num_bytes` from an address on; it may lie behind the end of everything.
inline void prefetch_bytes(uintptr_t address, int64_t num_bytes) {
  for (int64_t offset = 0; offset < num_bytes; offset += LINE_BYTES) {
    prefetch(reinterpret_cast<const void*>(address + static_cast<uintptr_t>(offset)));
  }
}

} // namespace
} // namespace prosparse

#ifdef __AVX512VNNI__
#include "bytes_avx512.h"
#endif

namespace prosparse {
namespace {

// Products of R rows with T tokens, out[r * T + t] = rows[r] . x[t]; the same bytes from ahead[r] on are
// fetched meanwhile. Each product adds up its terms in the same order whatever R and T are.
template <typename E, int R, int T>
inline void dot_plain(const E* const* rows, const uintptr_t* ahead, const float* x, int64_t stride,
                      int64_t width, float* out) {
  constexpr int64_t STEP = CHAINS * LANES; // two blocks
  Floats sums[R][T][CHAINS];
  for (auto& of_row : sums) {
    for (auto& chains : of_row) {
      for (Floats& chain : chains) chain = broadcast(0.0f);
    }
  }
  const auto add_block = [&](int64_t c, int chain, bool is_whole) {
    for (int r = 0; r < R; ++r) {
      const Block weights = is_whole ? load_block(rows[r] + c) : load_part(rows[r] + c, width - c);
      for (int t = 0; t < T; ++t) {
        const float* of_token = x + t * stride + c;
        Floats* chains = sums[r][t] + chain;
        chains[0] = multiply_add(weights.first, load(of_token), chains[0]);
        chains[1] = multiply_add(weights.second, load(of_token + LANES), chains[1]);
      }
    }
  };
  int64_t c = 0;
  for (; c + STEP <= width; c += STEP) {
    for (int r = 0; r < R; ++r) {
      prefetch_bytes(ahead[r] + static_cast<uintptr_t>(bytes_of<E>(c)), bytes_of<E>(STEP));
    }
    add_block(c, 0, true);
    add_block(c + BLOCK, 2, true);
  }
  for (; c < width; c += BLOCK) add_block(c, 0, c + BLOCK <= width);
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) {
      const Floats* chains = sums[r][t];
      out[r * T + t] = sum(add(add(chains[0], chains[2]), add(chains[1], chains[3])));
    }
  }
}

// The same of quantized rows: a scale multiplies the sum of its group. GROUP is the size of a group where
// the compiler may know it, else 0.
template <typename E, int R, int T, int64_t GROUP>
inline void dot_groups(const E* const* rows, const uint16_t* const* scales, int64_t any_group,
                       const uintptr_t* ahead, const float* x, int64_t stride, int64_t width,
                       float* out) {
  const int64_t group = GROUP ? GROUP : any_group, num_groups = width / group;
  Floats sums[R][T];
  for (auto& of_row : sums) {
    for (Floats& total : of_row) total = broadcast(0.0f);
  }
  alignas(64) float widened[R][LANES];
  for (int64_t g = 0; g < num_groups; ++g) {
    if (g % LANES == 0) {
      const int64_t count = num_groups - g < LANES ? num_groups - g : LANES;
      for (int r = 0; r < R; ++r) widen_scales(scales[r] + g, count, widened[r]);
    }
    const int64_t first = g * group;
    for (int r = 0; r < R; ++r) {
      prefetch_bytes(ahead[r] + static_cast<uintptr_t>(bytes_of<E>(first)), bytes_of<E>(group));
      Floats parts[T][2];
      for (auto& part : parts) part[0] = part[1] = broadcast(0.0f);
      for (int64_t c = first; c < first + group; c += BLOCK) {
        const Block weights = load_block(advance(rows[r], c));
        for (int t = 0; t < T; ++t) {
          const float* of_token = x + t * stride + c;
          parts[t][0] = multiply_add(weights.first, load(of_token), parts[t][0]);
          parts[t][1] = multiply_add(weights.second, load(of_token + LANES), parts[t][1]);
        }
      }
      const Floats scale = broadcast(widened[r][g % LANES]);
      for (int t = 0; t < T; ++t) {
        sums[r][t] = multiply_add(scale, add(parts[t][0], parts[t][1]), sums[r][t]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) out[r * T + t] = sum(sums[r][t]);
  }
}

// The inputs of a product.
struct Inputs {
  const float* x; // [T, stride], in the order of the matrix's blocks; null where all are split
  const SplitX& split;
  int64_t tokens, stride, width;
};

template <typename E, int R, int T>
inline void dot_some(const Matrix& matrix, const Inputs& inputs, int64_t token,
                     const int32_t* neurons, const int32_t* ahead, float* out) {
  const int64_t width = inputs.width;
  const float* x = inputs.x + token * inputs.stride;
  const E* rows[R];
  uintptr_t next[R];
  for (int r = 0; r < R; ++r) {
    rows[r] = advance(static_cast<const E*>(matrix.values), neurons[r] * width);
    // Once is enough: with later tokens the row itself is near.
    next[r] = address_of<E>(matrix, (token == 0 ? ahead[r] : neurons[r]) * width);
  }
  if constexpr (IS_QUANTIZED<E>) {
    const uint16_t* scales[R];
    for (int r = 0; r < R; ++r) scales[r] = matrix.scales + neurons[r] * (width / matrix.group);
    if (matrix.group == 64) { // the usual size
      dot_groups<E, R, T, 64>(rows, scales, 64, next, x, inputs.stride, width, out);
    } else {
      dot_groups<E, R, T, 0>(rows, scales, matrix.group, next, x, inputs.stride, width, out);
    }
  } else {
    dot_plain<E, R, T>(rows, next, x, inputs.stride, width, out);
  }
}

#ifdef __AVX512VNNI__
template <typename E, int R>
inline void dot_split(const Matrix& matrix, const Inputs& inputs, int64_t token,
                      const int32_t* neurons, const int32_t* ahead, float* out) {
  const int64_t width = inputs.width, num_groups = width / BYTE_GROUP;
  const E* rows[R];
  const uint16_t* scales[R];
  uintptr_t next[R];
  for (int r = 0; r < R; ++r) {
    rows[r] = advance(static_cast<const E*>(matrix.values), neurons[r] * width);
    scales[r] = matrix.scales + neurons[r] * num_groups;
    next[r] = address_of<E>(matrix, (token == 0 ? ahead[r] : neurons[r]) * width);
  }
  const auto* spans = static_cast<const Span<E>*>(inputs.split.spans);
  dot_bytes<E, R>(rows, scales, next, spans + token * spans_of<E>(width),
                  inputs.split.scales + token * num_groups, width, out);
}

// `dot` of the tokens that are split.
template <typename E>
void dot_all_split(const Matrix& matrix, const Inputs& inputs, int64_t count,
                   const int32_t* neurons, const int32_t* ahead, float* out) {
  for (int64_t t = 0; t < inputs.tokens; ++t) {
    float found[PRODUCTS_AT_ONCE];
    if (inputs.split.is_split[t] && count == PRODUCTS_AT_ONCE) {
      dot_split<E, PRODUCTS_AT_ONCE>(matrix, inputs, t, neurons, ahead, found);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const auto one = inputs.split.is_split[t] ? dot_split<E, 1> : dot_some<E, 1, 1>;
        one(matrix, inputs, t, neurons + i, ahead + i, found + i);
      }
    }
    for (int64_t i = 0; i < count; ++i) out[i * inputs.tokens + t] = found[i];
  }
}
#endif

// out[i * tokens + t] = row of neurons[i] . x[t], of `count` neurons; ahead[i] will be asked for soon.
template <typename E>
void dot(const Matrix& matrix, const Inputs& inputs, int64_t count, const int32_t* neurons,
         const int32_t* ahead, float* out) {
#ifdef __AVX512VNNI__
  if constexpr (IS_QUANTIZED<E>) {
    if (inputs.split.spans) return dot_all_split<E>(matrix, inputs, count, neurons, ahead, out);
  }
#endif
  if (inputs.tokens == 1 && count == PRODUCTS_AT_ONCE) {
    return dot_some<E, PRODUCTS_AT_ONCE, 1>(matrix, inputs, 0, neurons, ahead, out);
  }
  for (int64_t i = 0; i < count; ++i) {
    float* of_row = out + i * inputs.tokens;
    int64_t t = 0;
    for (; t + PRODUCTS_AT_ONCE <= inputs.tokens; t += PRODUCTS_AT_ONCE) {
      dot_some<E, 1, PRODUCTS_AT_ONCE>(matrix, inputs, t, neurons + i, ahead + i, of_row + t);
    }
    for (; t < inputs.tokens; ++t) {
      dot_some<E, 1, 1>(matrix, inputs, t, neurons + i, ahead + i, of_row + t);
    }
  }
}

// sums[t] += values[r][t] * row r, of R rows and the columns [first, last); rows in order. The same
// columns of the rows `ahead` are fetched meanwhile.
template <typename E, int R>
inline void add_rows(const Job& job, const int32_t* rows, const int32_t* ahead, const float* values,
                     int64_t first, int64_t last, float* sums, int64_t stride) {
  const Matrix& down = job.down;
  const int64_t width = job.d_model, tokens = job.tokens;
  const E* row[R];
  uintptr_t next[R];
  const int64_t group = IS_QUANTIZED<E> ? down.group : width, first_group = first / group;
  alignas(64) float scales[R][IS_QUANTIZED<E> ? MOST_GROUPS : 1];
  for (int r = 0; r < R; ++r) {
    row[r] = advance(static_cast<const E*>(down.values), rows[r] * width);
    next[r] = address_of<E>(down, ahead[r] * width);
    if constexpr (IS_QUANTIZED<E>) {
      const uint16_t* of_row = down.scales + rows[r] * (width / group);
      widen_scales(of_row + first_group, (last - 1) / group + 1 - first_group, scales[r]);
    }
  }
  constexpr int64_t LINE = LINE_BYTES / static_cast<int64_t>(sizeof(E)) * VALUES_PER_UNIT<E>;
  const auto add_block = [&](const Block* weights, int64_t c) {
    for (int64_t t = 0; t < tokens; ++t) {
      float* of_token = sums + t * stride + c - first;
      Floats low = load(of_token), high = load(of_token + LANES);
      for (int r = 0; r < R; ++r) {
        const Floats value = broadcast(values[r * tokens + t]);
        low = multiply_add(weights[r].first, value, low);
        high = multiply_add(weights[r].second, value, high);
      }
      store(of_token, low);
      store(of_token + LANES, high);
    }
  };
  for (int64_t c = first; c < last; c += BLOCK) {
    if ((c - first) % LINE == 0) {
      for (int r = 0; r < R; ++r) {
        prefetch_bytes(next[r] + static_cast<uintptr_t>(bytes_of<E>(c)), bytes_of<E>(BLOCK));
      }
    }
    Block weights[R];
    const int64_t g = IS_QUANTIZED<E> ? c / group - first_group : 0;
    for (int r = 0; r < R; ++r) {
      if constexpr (IS_QUANTIZED<E>) {
        const Floats scale = broadcast(scales[r][g]);
        const Block whole = load_block(advance(row[r], c));
        weights[r] = {multiply(whole.first, scale), multiply(whole.second, scale)};
      } else {
        const bool is_whole = c + BLOCK <= last;
        weights[r] = is_whole ? load_block(row[r] + c) : load_part(row[r] + c, last - c);
      }
    }
    add_block(weights, c);
  }
}

} // namespace
} // namespace prosparse
