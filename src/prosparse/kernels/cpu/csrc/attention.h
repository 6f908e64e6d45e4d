// SPDX-License-Identifier: Apache-2.0
// What a decode step of a Llama does between its matrices, rounded where transformers rounds. Attention is
// an FFN of another kind: positions are its neurons, and softmax its activation. Included once by each
// variant_*.cpp, after steps.h.
#pragma once

namespace prosparse {
namespace {

template <typename Function>
inline void with_float_kind(int32_t kind, Function function) {
  if (kind == BFLOAT16) return function(static_cast<Bf16*>(nullptr));
  if (kind == FLOAT16) return function(static_cast<Fp16*>(nullptr));
  function(static_cast<float*>(nullptr));
}

template <typename E>
inline float rounded_to(float value) {
  E out;
  round_to(value, &out);
  return widen(out);
}

// out = weight * round(x / sqrt(mean(x^2) + epsilon)), of [width]
void normalize(int32_t kind, const void* x, const void* weight, int64_t width, float epsilon, void* out) {
  with_float_kind(kind, [&](auto* element) {
    using E = std::remove_pointer_t<decltype(element)>;
    const auto *values = static_cast<const E*>(x), *factors = static_cast<const E*>(weight);
    float squares[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
      for (int j = 0; j < LANES; ++j) squares[j] += widen(values[i + j]) * widen(values[i + j]);
    }
    for (int j = 0; i < width; ++i, ++j) squares[j] += widen(values[i]) * widen(values[i]);
    const float mean = sum(load(squares)) / static_cast<float>(width);
    const float scale = 1.0f / __builtin_sqrtf(mean + epsilon);
    for (i = 0; i < width; ++i) {
      const float normal = rounded_to<E>(widen(values[i]) * scale);
      round_to(widen(factors[i]) * normal, static_cast<E*>(out) + i);
    }
  });
}

// Turn [heads, width] by the angles of one position, in place; `cosines` and `sines` are [width].
void rotate(int32_t kind, void* heads, int64_t num_heads, int64_t width, const void* cosines,
            const void* sines) {
  with_float_kind(kind, [&](auto* element) {
    using E = std::remove_pointer_t<decltype(element)>;
    const auto *cosine = static_cast<const E*>(cosines), *sine = static_cast<const E*>(sines);
    const int64_t half = width / 2;
    for (int64_t h = 0; h < num_heads; ++h) {
      E *first = static_cast<E*>(heads) + h * width, *second = first + half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = widen(first[i]), b = widen(second[i]);
        const float along = rounded_to<E>(a * widen(cosine[i]));
        const float across = rounded_to<E>(b * widen(sine[i]));
        const float upright = rounded_to<E>(b * widen(cosine[half + i]));
        const float aside = rounded_to<E>(a * widen(sine[half + i]));
        round_to(along - across, first + i);
        round_to(upright + aside, second + i);
      }
    }
  });
}

// e^x for x <= 0, to two units in the last place; 0 below -87; NaN stays.
inline float exponential(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f; // the fraction is rounded away
  const float whole = shifted - 12582912.0f;
  const float rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f; // whole * ln 2, in two parts
  float power = 1.9875691500e-4f; // Cephes' expf
  power = power * rest + 1.3981999507e-3f;
  power = power * rest + 8.3334519073e-3f;
  power = power * rest + 4.1665795894e-2f;
  power = power * rest + 1.6666665459e-1f;
  power = power * rest + 5.0000001201e-1f;
  power = power * rest * rest + rest + 1.0f;
  const float scaled = power * from_bits((to_bits(shifted) - 0x4b400000u + 127u) << 23);
  return x < -87.0f ? 0.0f : scaled;
}

// scores = softmax(scaling * scores), of `count`; whole vectors of them are written.
inline void softmax(float* scores, int64_t count, float scaling) {
  const int64_t end = (count + LANES - 1) / LANES * LANES;
  for (int64_t i = count; i < end; ++i) scores[i] = scores[0];
  float most[LANES], sums[LANES] = {};
  for (int j = 0; j < LANES; ++j) most[j] = scores[j] * scaling;
  for (int64_t i = 0; i < end; i += LANES) {
    for (int j = 0; j < LANES; ++j) {
      const float score = scores[i + j] *= scaling;
      most[j] = score > most[j] ? score : most[j];
    }
  }
  float largest = most[0];
  for (const float each : most) largest = each > largest ? each : largest;
  for (int64_t i = 0; i < end; ++i) scores[i] = exponential(scores[i] - largest);
  for (int64_t i = count; i < end; ++i) scores[i] = 0.0f;
  for (int64_t i = 0; i < end; i += LANES) {
    for (int j = 0; j < LANES; ++j) sums[j] += scores[i + j];
  }
  const float share = 1.0f / sum(load(sums));
  for (int64_t i = 0; i < count; ++i) scores[i] *= share;
}

// One head of one token: out = softmax(scaling * K q) V over the positions so far.
void attend(const Attention& attention, int64_t head) {
  const int64_t width = attention.head_dim, count = attention.num_positions;
  const int64_t size = attention.kind == FLOAT32 ? 4 : 2;
  const int64_t others = head / attention.heads_per_kv * attention.max_length * width * size;
  alignas(64) float query[MOST_HEAD_DIM] = {};
  for (int64_t i = 0; i < width; ++i) {
    const int64_t place = i / BLOCK * BLOCK + place_in_block(attention.kind, i % BLOCK);
    query[place] = get(attention.query, attention.kind, head * width + i);
  }
  const Matrix keys{static_cast<const char*>(attention.keys) + others, nullptr, 0, attention.kind};
  const SplitX none{};
  const Inputs inputs{query, none, 1, MOST_HEAD_DIM, width};
  const Dot product = dot_of(keys);
  float* scores = attention.scores + head * attention.stride;
  for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
    const int32_t* positions = attention.positions + first;
    product(keys, inputs, least(ROWS_AT_ONCE, count - first), positions, positions + ROWS_AT_ONCE,
            scores + first);
  }
  softmax(scores, count, attention.scaling);

  Job job{};
  job.tokens = 1, job.d_model = width, job.kind = attention.kind;
  job.down = {static_cast<const char*>(attention.values) + others, nullptr, 0, attention.kind};
  job.y = static_cast<char*>(attention.out) + head * width * size;
  Workspace work{};
  work.rows = attention.positions, work.values = scores, work.num_rows = count;
  work.columns_per_tile = (width + BLOCK - 1) / BLOCK * BLOCK;
  down_tile(job, work, 0);
}

} // namespace
} // namespace prosparse
