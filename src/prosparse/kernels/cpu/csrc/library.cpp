// SPDX-License-Identifier: Apache-2.0
// What Python calls: the choice of a variant, and the steps one after another.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "element.h"
#include "job.h"
#include "pool.h"

namespace prosparse {

extern const Variant VARIANT_PORTABLE;
#ifdef PROSPARSE_WITH_AVX2
extern const Variant VARIANT_AVX2;
#endif
#ifdef PROSPARSE_WITH_AVX512
extern const Variant VARIANT_AVX512;
#endif
#ifdef PROSPARSE_WITH_AVX512VNNI
extern const Variant VARIANT_AVX512VNNI;
#endif
#ifdef PROSPARSE_WITH_NEON
extern const Variant VARIANT_NEON;
#endif

namespace {

constexpr int64_t PIECES_PER_THREAD = 8;    // at most: a thread that is late is helped out
constexpr int64_t LEAST_PIECE = 1 << 17;    // bytes: the first misses of a piece count for nothing then
constexpr int64_t LEAST_ROWS = 8;
constexpr int64_t LEAST_TILE = 128;         // columns: four lines of 16-bit weights
constexpr int64_t READ_BYTES = 1 << 18;

// Variants that were built and that this CPU runs, best first; the last one always does.
int runnable(const Variant** found) {
  int count = 0;
#ifdef PROSPARSE_WITH_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
#ifdef PROSPARSE_WITH_AVX512VNNI
    if (__builtin_cpu_supports("avx512vnni")) found[count++] = &VARIANT_AVX512VNNI;
#endif
    found[count++] = &VARIANT_AVX512;
  }
#endif
#ifdef PROSPARSE_WITH_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    found[count++] = &VARIANT_AVX2;
  }
#endif
#ifdef PROSPARSE_WITH_NEON
  found[count++] = &VARIANT_NEON; // part of every 64-bit ARM CPU
#endif
  found[count++] = &VARIANT_PORTABLE;
  return count;
}

const Variant* best() {
  const Variant* found[4];
  runnable(found);
  return found[0];
}

const Variant* chosen = best();

// Memory that a thread keeps for its next call.
class Buffer {
 public:
  ~Buffer() { std::free(data_); }

  template <typename T>
  T* of(int64_t count) {
    const auto wanted = static_cast<size_t>(count) * sizeof(T) + 64;
    if (wanted > size_) {
      std::free(data_);
      size_ = 0;
      const size_t rounded = (wanted + 63) / 64 * 64;
      data_ = std::aligned_alloc(64, rounded);
      if (!data_) throw std::bad_alloc();
      size_ = rounded;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

struct InputBuffers {
  Buffer widened, spans, scales;
};

struct Buffers {
  InputBuffers x_of_gate, x_of_up;
  Buffer rows, values, counts, mask;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many pieces to cut the reading of some rows of a matrix into.
int64_t num_pieces(const Job& job, const Matrix& matrix, int64_t rows) {
  constexpr int64_t BITS[] = {32, 16, 16, 8, 4}; // of each kind
  const int64_t threads = job.num_threads > 0 ? job.num_threads : 1;
  const int64_t num_bytes = rows * job.d_model * BITS[matrix.kind] / 8;
  return threads * std::clamp<int64_t>(num_bytes / LEAST_PIECE / threads, 1, PIECES_PER_THREAD);
}

struct Call {
  const Job& job;
  const Workspace& work;
};

using Piece = void (*)(const Job&, const Workspace&, int64_t);

template <Piece Variant::*PIECE>
void run_pieces(const Job& job, const Workspace& work, int64_t count) {
  Call call{job, work};
  const Body body = [](void* context, int64_t item) {
    const Call& call = *static_cast<Call*>(context);
    (chosen->*PIECE)(call.job, call.work, item);
  };
  parallel_for(job.num_threads, count, body, &call);
}

// x as float32, in the order in which blocks of a kind come.
template <typename E>
void widen_x(const Job& job, int64_t stride, int32_t order, float* out) {
  int64_t places[BLOCK];
  for (int64_t i = 0; i < BLOCK; ++i) places[i] = place_in_block(order, i);
  for (int64_t t = 0; t < job.tokens; ++t) {
    const E* x = static_cast<const E*>(job.x) + t * job.d_model;
    float* of_token = out + t * stride;
    for (int64_t first = 0; first < stride; first += BLOCK) {
      const int64_t count = job.d_model - first < BLOCK ? job.d_model - first : BLOCK;
      for (int64_t i = 0; i < count; ++i) of_token[first + places[i]] = widen(x[first + i]);
      for (int64_t i = count; i < BLOCK; ++i) of_token[first + places[i]] = 0.0f;
    }
  }
}

float* widened_x(const Job& job, int64_t stride, int32_t order, Buffer& buffer) {
  float* out = buffer.of<float>(job.tokens * stride);
  if (job.kind == BFLOAT16) {
    widen_x<Bf16>(job, stride, order, out);
  } else if (job.kind == FLOAT16) {
    widen_x<Fp16>(job, stride, order, out);
  } else {
    widen_x<float>(job, stride, order, out);
  }
  return out;
}

// x for the products with a matrix: split where the variant does that, and widened for what is left.
float* prepared_x(const Job& job, int64_t stride, const Matrix& matrix, SplitX& split,
                  InputBuffers& buffers) {
  constexpr int64_t GROUP = 64, MOST_SPAN_BYTES = 5 * GROUP; // of one or two groups
  const bool is_quantized = matrix.kind == INT8 || matrix.kind == INT4;
  if (chosen->split_x && is_quantized && matrix.group == GROUP && job.kind != FLOAT32) {
    const int64_t groups = job.tokens * (job.d_model / GROUP);
    split.spans = buffers.spans.of<int8_t>((groups + job.tokens) * MOST_SPAN_BYTES);
    split.scales = buffers.scales.of<float>(groups);
    chosen->split_x(job, matrix, split);
    if (std::all_of(split.is_split, split.is_split + job.tokens, [](bool done) { return done; })) {
      return nullptr;
    }
  }
  return widened_x(job, stride, matrix.kind, buffers.widened);
}

#include "run.h"
#include "predicted.h"

// One of several projections of one x.
struct Part {
  const Job* job;
  Workspace work;
  int64_t first_chunk; // among the chunks of all
};

struct Parts {
  Part parts[MAX_TOGETHER];
  int64_t count;
};

// Threads take the rows of all matrices as if they were one.
void run_projections(const Job* jobs, int64_t count) {
  thread_local InputBuffers buffers[MAX_TOGETHER];
  int64_t num_rows = 0, num_chunks = 0;
  for (int64_t i = 0; i < count; ++i) num_rows += jobs[i].d_ff;
  const int64_t rows = ceil_div(num_rows, num_pieces(jobs[0], jobs[0].gate, num_rows));
  Parts all{};
  all.count = count;
  for (int64_t i = 0; i < count; ++i) {
    const Job& job = jobs[i];
    Workspace work{};
    work.stride = ceil_div(job.d_model, BLOCK) * BLOCK;
    work.neurons_per_chunk = rows;
    const Matrix& first = jobs[0].gate;
    if (i > 0 && job.gate.kind == first.kind && job.gate.group == first.group) {
      work.x_of_gate = all.parts[0].work.x_of_gate;
      work.split_of_gate = all.parts[0].work.split_of_gate;
    } else {
      work.x_of_gate = prepared_x(job, work.stride, job.gate, work.split_of_gate, buffers[i]);
    }
    all.parts[i] = {&job, work, num_chunks};
    num_chunks += ceil_div(job.d_ff, rows);
  }
  const Body body = [](void* context, int64_t chunk) {
    const Parts& all = *static_cast<Parts*>(context);
    int64_t i = all.count - 1;
    while (all.parts[i].first_chunk > chunk) --i;
    const Part& part = all.parts[i];
    chosen->project_chunk(*part.job, part.work, chunk - part.first_chunk);
  };
  parallel_for(jobs[0].num_threads, num_chunks, body, &all);
}

#include "decode.h"

struct Reading {
  const char* data;
  int64_t num_bytes;
  uint64_t seen;
};

} // namespace
} // namespace prosparse

#define PROSPARSE_API extern "C" __attribute__((visibility("default")))

using namespace prosparse;

// What Python checks before it trusts the layout of its structures.
PROSPARSE_API int64_t prosparse_job_size() { return sizeof(Job); }
PROSPARSE_API int64_t prosparse_decode_size() { return sizeof(Decode) + sizeof(Layer); }

// Run steps (1) to (3) as far as the job asks for them. Returns 0, or 1 when memory ran out.
PROSPARSE_API int32_t prosparse_run(const Job* job) {
  try {
    run_steps(*job);
    return 0;
  } catch (...) { // nothing may be thrown into Python
    return 1;
  }
}

// Run an FFN for the neurons whose logit is not below `cut`; see predicted.h. Returns as above.
PROSPARSE_API int32_t prosparse_run_predicted(const Job* predictor, const Job* ffn, float cut) {
  try {
    run_predicted(*predictor, *ffn, cut);
    return 0;
  } catch (...) {
    return 1;
  }
}

// Run dense projections of one x: its product with each job's gate, plus bias, into x1.
PROSPARSE_API int32_t prosparse_project(const Job* jobs, int32_t count) {
  try {
    run_projections(jobs, count);
    return 0;
  } catch (...) {
    return 1;
  }
}

// Take one token through a Llama; see decode.h. Returns as above.
PROSPARSE_API int32_t prosparse_decode(Decode* decode) { return decode_token(*decode) ? 0 : 1; }

// Read memory on several threads and do nothing with it.
PROSPARSE_API uint64_t prosparse_read(const void* data, int64_t num_bytes, int32_t num_threads) {
  Reading reading{static_cast<const char*>(data), num_bytes, 0};
  const Body body = [](void* context, int64_t item) {
    auto& reading = *static_cast<Reading*>(context);
    const int64_t first = item * READ_BYTES, rest = reading.num_bytes - first;
    const uint64_t seen = chosen->read(reading.data + first, rest < READ_BYTES ? rest : READ_BYTES);
    if (seen == 1) reading.seen = seen; // hardly ever; but the reads have to be made
  };
  parallel_for(num_threads, ceil_div(num_bytes, READ_BYTES), body, &reading);
  return reading.seen;
}

// The name of the variant in use.
PROSPARSE_API const char* prosparse_variant() { return chosen->name; }

// Use a variant by its name, or the best one for null. Returns 0, or 1 if it cannot run here.
PROSPARSE_API int32_t prosparse_use_variant(const char* name) {
  const Variant* found[4];
  const int count = runnable(found);
  for (int i = 0; i < count; ++i) {
    if (!name || std::strcmp(name, found[i]->name) == 0) {
      chosen = found[i];
      return 0;
    }
  }
  return 1;
}

// Use the threads of an OpenMP runtime in this process, or our own.
PROSPARSE_API void prosparse_use_openmp(int32_t wanted) { use_openmp(wanted != 0); }

// Whether those of an OpenMP runtime are used: wanted, and there is one.

PROSPARSE_API int32_t prosparse_uses_openmp() { return uses_openmp(); }

PROSPARSE_API void prosparse_forget_threads() { forget_threads(); }
