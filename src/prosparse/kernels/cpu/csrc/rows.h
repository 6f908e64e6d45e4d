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

// out[t] = row . x[t] of T tokens; the same bytes from `ahead` on are fetched meanwhile.
template <typename E, int T>
inline void dot_plain(const E* row, uintptr_t ahead, const float* x, int64_t stride, int64_t width,
                      float* out) {
  constexpr int64_t STEP = CHAINS * LANES; // two blocks
  Floats sums[T][CHAINS];
  for (auto& chains : sums) {
    for (Floats& chain : chains) chain = broadcast(0.0f);
  }
  const auto add_block = [&](Block weights, int64_t c, int chain) {
    for (int t = 0; t < T; ++t) {
      const float* of_token = x + t * stride + c;
      sums[t][chain] = multiply_add(weights.first, load(of_token), sums[t][chain]);
      sums[t][chain + 1] = multiply_add(weights.second, load(of_token + LANES), sums[t][chain + 1]);
    }
  };
  int64_t c = 0;
  for (; c + STEP <= width; c += STEP) {
    prefetch_bytes(ahead + static_cast<uintptr_t>(bytes_of<E>(c)), bytes_of<E>(STEP));
    add_block(load_block(row + c), c, 0);
    add_block(load_block(row + c + BLOCK), c + BLOCK, 2);
  }
  for (; c < width; c += BLOCK) {
    add_block(c + BLOCK <= width ? load_block(row + c) : load_part(row + c, width - c), c, 0);
  }
  for (int t = 0; t < T; ++t) {
    out[t] = sum(add(add(sums[t][0], sums[t][2]), add(sums[t][1], sums[t][3])));
  }
}

// The same of a quantized row: the scale multiplies the sum of its group. GROUP is the size of a group
// where the compiler may know it, else 0.
template <typename E, int T, int64_t GROUP>
inline void dot_groups(const E* row, const uint16_t* scales, int64_t any_group, uintptr_t ahead,
                       const float* x, int64_t stride, int64_t width, float* out) {
  const int64_t group = GROUP ? GROUP : any_group;
  Floats sums[T];
  for (Floats& total : sums) total = broadcast(0.0f);
  const int64_t num_groups = width / group;
  alignas(64) float scale[LANES];
  for (int64_t g = 0; g < num_groups; ++g) {
    if (g % LANES == 0) {
      widen_scales(scales + g, num_groups - g < LANES ? num_groups - g : LANES, scale);
    }
    const int64_t first = g * group;
    prefetch_bytes(ahead + static_cast<uintptr_t>(bytes_of<E>(first)), bytes_of<E>(group));
    Floats parts[T][2];
    for (auto& part : parts) part[0] = part[1] = broadcast(0.0f);
    for (int64_t c = first; c < first + group; c += BLOCK) {
      const Block weights = load_block(advance(row, c));
      for (int t = 0; t < T; ++t) {
        const float* of_token = x + t * stride + c;
        parts[t][0] = multiply_add(weights.first, load(of_token), parts[t][0]);
        parts[t][1] = multiply_add(weights.second, load(of_token + LANES), parts[t][1]);
      }
    }
    const Floats factor = broadcast(scale[g % LANES]);
    for (int t = 0; t < T; ++t) {
      sums[t] = multiply_add(factor, add(parts[t][0], parts[t][1]), sums[t]);
    }
  }
  for (int t = 0; t < T; ++t) out[t] = sum(sums[t]);
}

template <int N>
struct Count { // a number that a lambda can take as a type
  static constexpr int value = N;
};

// out[t] = row . x[t] of all tokens. `ahead` is the row that will be asked for soon.
template <typename E>
void dot(const Job& job, const Matrix& matrix, const float* x, int64_t stride, int64_t row,
         int64_t ahead, float* out) {
  const int64_t width = job.d_model;
  const E* values = advance(static_cast<const E*>(matrix.values), row * width);
  const auto some = [&](int64_t t, auto count) {
    constexpr int T = decltype(count)::value;
    const uintptr_t next = address_of<E>(matrix, (t == 0 ? ahead : row) * width); // once is enough
    if constexpr (IS_QUANTIZED<E>) {
      const uint16_t* scales = matrix.scales + row * (width / matrix.group);
      const float* of_token = x + t * stride;
      if (matrix.group == 64) { // the usual size
        dot_groups<E, T, 64>(values, scales, 64, next, of_token, stride, width, out + t);
      } else {
        dot_groups<E, T, 0>(values, scales, matrix.group, next, of_token, stride, width, out + t);
      }
    } else {
      dot_plain<E, T>(values, next, x + t * stride, stride, width, out + t);
    }
  };
  int64_t t = 0;
  for (; t + TOKENS_AT_ONCE <= job.tokens; t += TOKENS_AT_ONCE) some(t, Count<TOKENS_AT_ONCE>{});
  for (; t < job.tokens; ++t) some(t, Count<1>{});
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
