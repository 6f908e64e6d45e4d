// SPDX-License-Identifier: Apache-2.0
// One row of weights against the tokens: its products with x, and its share of y. Included after one
// simd_*.h, whose sixteen lanes everything here is written in.
#pragma once

namespace prosparse {
namespace {

constexpr int64_t LINE_BYTES = 64;

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

// The last lanes of a row that is no multiple of sixteen, zeros behind them.
template <typename E>
inline Floats load_part(const E* data, int64_t count) {
  E padded[LANES] = {};
  std::memcpy(padded, data, static_cast<size_t>(count) * sizeof(E));
  return load(padded);
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
  constexpr int CHAINS = T == 1 ? 4 : T == 2 ? 2 : 1; // sums that do not wait for each other
  constexpr int64_t STEP = CHAINS * LANES;
  Floats sums[T][CHAINS];
  for (auto& chains : sums) {
    for (Floats& chain : chains) chain = broadcast(0.0f);
  }
  int64_t c = 0;
  for (; c + STEP <= width; c += STEP) {
    prefetch_bytes(ahead + static_cast<uintptr_t>(bytes_of<E>(c)), bytes_of<E>(STEP));
    for (int i = 0; i < CHAINS; ++i) {
      const Floats weights = load(row + c + i * LANES);
      for (int t = 0; t < T; ++t) {
        sums[t][i] = multiply_add(weights, load(x + t * stride + c + i * LANES), sums[t][i]);
      }
    }
  }
  for (; c < width; c += LANES) {
    const Floats weights = c + LANES <= width ? load(row + c) : load_part(row + c, width - c);
    for (int t = 0; t < T; ++t) {
      sums[t][0] = multiply_add(weights, load(x + t * stride + c), sums[t][0]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int half = CHAINS / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sums[t][i] = add(sums[t][i], sums[t][i + half]);
    }
    out[t] = sum(sums[t][0]);
  }
}

// The same of a quantized row: the scale multiplies the sum of its group.
template <typename E, int T>
inline void dot_groups(const E* row, const uint16_t* scales, int64_t group, uintptr_t ahead,
                       const float* x, int64_t stride, int64_t width, float* out) {
  Floats sums[T];
  for (Floats& total : sums) total = broadcast(0.0f);
  for (int64_t first = 0; first < width; first += group) {
    prefetch_bytes(ahead + static_cast<uintptr_t>(bytes_of<E>(first)), bytes_of<E>(group));
    Floats parts[T];
    for (Floats& part : parts) part = broadcast(0.0f);
    for (int64_t c = first; c < first + group; c += LANES) {
      const Floats weights = load(advance(row, c));
      for (int t = 0; t < T; ++t) {
        parts[t] = multiply_add(weights, load(x + t * stride + c), parts[t]);
      }
    }
    const Floats scale = broadcast(widen_scale(*scales++));
    for (int t = 0; t < T; ++t) sums[t] = multiply_add(scale, parts[t], sums[t]);
  }
  for (int t = 0; t < T; ++t) out[t] = sum(sums[t]);
}

template <int N>
struct Count { // a number that a lambda can take as a type
  static constexpr int value = N;
};

template <typename E, int T>
inline void dot_some(const Matrix& matrix, int64_t row, int64_t ahead, int64_t width,
                     const float* x, int64_t stride, float* out) {
  const E* values = advance(static_cast<const E*>(matrix.values), row * width);
  const auto next = reinterpret_cast<uintptr_t>(matrix.values) +
                    static_cast<uintptr_t>(bytes_of<E>(ahead * width));
  if constexpr (IS_QUANTIZED<E>) {
    const uint16_t* scales = matrix.scales + row * (width / matrix.group);
    dot_groups<E, T>(values, scales, matrix.group, next, x, stride, width, out);
  } else {
    dot_plain<E, T>(values, next, x, stride, width, out);
  }
}

// out[t] = row . x[t] of all tokens. `ahead` is the row that will be asked for soon.
template <typename E>
void dot(const Job& job, const Workspace& work, const Matrix& matrix, int64_t row, int64_t ahead,
         float* out) {
  for (int64_t t = 0; t < job.tokens; t += 4) {
    const float* x = work.x + t * work.stride;
    const int64_t next = t == 0 ? ahead : row; // once is enough
    const auto some = [&](auto count) {
      dot_some<E, decltype(count)::value>(matrix, row, next, job.d_model, x, work.stride, out + t);
    };
    switch (job.tokens - t) {
      case 1: some(Count<1>{}); break;
      case 2: some(Count<2>{}); break;
      case 3: some(Count<3>{}); break;
      default: some(Count<4>{});
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
  Floats only[R]; // the factors of the only token
  for (int r = 0; r < R; ++r) {
    row[r] = advance(static_cast<const E*>(down.values), rows[r] * width);
    next[r] = reinterpret_cast<uintptr_t>(down.values) +
              static_cast<uintptr_t>(bytes_of<E>(ahead[r] * width));
    only[r] = broadcast(values[r * tokens]);
  }
  const int64_t group = IS_QUANTIZED<E> ? down.group : width;
  constexpr int64_t LINE = LINE_BYTES / static_cast<int64_t>(sizeof(E)) * VALUES_PER_UNIT<E>;
  for (int64_t c = first; c < last;) {
    const int64_t index = c / group;
    const int64_t end = (index + 1) * group < last ? (index + 1) * group : last;
    Floats scale[R];
    if constexpr (IS_QUANTIZED<E>) {
      for (int r = 0; r < R; ++r) {
        scale[r] = broadcast(widen_scale(down.scales[rows[r] * (width / group) + index]));
      }
    }
    for (; c < end; c += LANES) {
      if ((c - first) % LINE == 0) {
        for (int r = 0; r < R; ++r) {
          prefetch(reinterpret_cast<const void*>(next[r] + static_cast<uintptr_t>(bytes_of<E>(c))));
        }
      }
      Floats weights[R];
      for (int r = 0; r < R; ++r) {
        if constexpr (IS_QUANTIZED<E>) {
          weights[r] = multiply_add(load(advance(row[r], c)), scale[r], broadcast(0.0f));
        } else {
          weights[r] = c + LANES <= last ? load(row[r] + c) : load_part(row[r] + c, last - c);
        }
      }
      if (tokens == 1) {
        Floats total = load(sums + c - first);
        for (int r = 0; r < R; ++r) total = multiply_add(weights[r], only[r], total);
        store(sums + c - first, total);
        continue;
      }
      for (int64_t t = 0; t < tokens; ++t) {
        Floats total = load(sums + t * stride + c - first);
        for (int r = 0; r < R; ++r) {
          total = multiply_add(weights[r], broadcast(values[r * tokens + t]), total);
        }
        store(sums + t * stride + c - first, total);
      }
    }
  }
}

} // namespace
} // namespace prosparse
