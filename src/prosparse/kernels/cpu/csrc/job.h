// SPDX-License-Identifier: Apache-2.0
// What the C++ side is asked to do; `kernels/cpu/library.py` has the same structures for ctypes.
// T tokens, D = d_model, F = d_ff. What is computed is `prosparse.kernels.reference`.
#pragma once

#include <cstdint>

namespace prosparse {

constexpr int MAX_TOKENS = 16;
constexpr int MAX_TOGETHER = 8; // projections of one call
constexpr int64_t MOST_TILE_FLOATS = 8192; // columns times tokens that a piece of step (3) adds up

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2, INT8 = 3, INT4 = 4 };

// A neuron-major matrix [F, D]. INT4 holds two values a byte, in the order of `kernels/quantize.py`.
struct Matrix {
  const void* values;     // null where there is none
  const uint16_t* scales; // float16 [F, D / group], of INT8 and INT4
  int64_t group;          // values that share a scale, a multiple of 32
  int32_t kind;
};

struct Job {
  int64_t tokens, d_model, d_ff;
  int32_t kind;        // of x, gate_pre, x1, the biases, and of y and residual unless told otherwise
  int32_t num_threads;
  const void* x;        // [T, D]
  const void* gate_pre; // [T, F] where the gate is computed elsewhere; else null
  void* x1;             // [T, F]; may be null for the whole FFN
  void* y;              // [T, D]
  const void* residual; // [T, D] or null
  int32_t residual_is_float32, y_is_float32;
  Matrix gate, up, down;
  const void *gate_bias, *up_bias; // [F] or null
  const void* down_bias;           // [D] or null
  float threshold; // as the kind of x has it
  float shift;
  int32_t up_relu;
};

constexpr int64_t MOST_HEAD_DIM = 256;

// One decoder layer of a Llama; D = d_model of its jobs, whose x, x1, y and residual are set in the step.
struct Layer {
  const void *attention_norm, *ffn_norm; // [D]
  Job query, key, value, output;         // projections, as their gates
  Job ffn;
  void *keys, *values; // [KV heads, max_length, head_dim]
};

// One token's way through a Llama; everything is of one kind but what is in few bits.
struct Decode {
  Layer* layers;
  int64_t num_layers, d_model, num_heads, num_kv_heads, head_dim, max_length;
  int32_t kind, num_threads;
  float epsilon, scaling; // of the norms, of the scores
  Matrix table;           // [V, D], the embeddings
  const void *cosines, *sines; // [max_length, head_dim]
  const void* norm;            // [D], before the head
  Job head;                    // d_ff = V
  int64_t token, position;     // what is read, and where it stands
  void* logits;                // [V]
  int64_t likeliest;           // written: the first of the largest logits
};

// What a piece of one token's attention reads; H heads.
struct Attention {
  int32_t kind;
  int64_t head_dim, heads_per_kv, max_length, num_positions, stride;
  float scaling;
  const void* query;         // [H, head_dim]
  const void *keys, *values; // [KV heads, max_length, head_dim]
  void* out;                 // [H, head_dim]
  int32_t* positions;        // 0, 1, 2, ... some more than there are
  float* scores;             // [H, stride]
};

// x as the whole numbers that some variants multiply quantized rows with.
struct SplitX {
  void* spans;    // [T, spans of a token], as the variant lays them out; null where there are none
  float* scales;  // [T, D / 64]
  bool is_split[MAX_TOKENS]; // false for a token with infinity or NaN, which is computed in floats
};

// What one call works in; all of it belongs to the calling thread.
struct Workspace {
  // [T, stride]: x widened, in the order in which the gate's blocks come, and that of up's; zero
  // beyond D. One and the same where the orders are.
  float *x_of_gate, *x_of_up;
  SplitX split_of_gate, split_of_up;
  int64_t stride;  // D rounded up to whole blocks
  int32_t* rows;   // [F]: the neurons that some token needs, in order
  float* values;   // [F, T]: act(gate) of those neurons, later x_1, rounded as a tensor would be
  int32_t* counts; // [chunks]: how many neurons of a chunk are needed
  int64_t num_rows;
  int64_t neurons_per_chunk, rows_per_unit, columns_per_tile;
};

// One build of the kernels for one instruction set. Each function does one piece of work.
struct Variant {
  const char* name;
  // Step (1), or act(gate_pre): lists the needed neurons of a chunk at the chunk's own place.
  void (*gate_chunk)(const Job&, const Workspace&, int64_t chunk);
  // Rows of a dense projection, of the size of a chunk: into x1, which has all of them.
  void (*project_chunk)(const Job&, const Workspace&, int64_t chunk);
  // Step (2) of `rows_per_unit` listed neurons: x_1 into `values`.
  void (*up_unit)(const Job&, const Workspace&, int64_t unit);
  // Step (3) of a range of columns: y.
  void (*down_tile)(const Job&, const Workspace&, int64_t tile);
  // Read memory and do nothing with it; the measure of all others.
  uint64_t (*read)(const void* data, int64_t num_bytes);
  // Split x for a matrix; null where the variant has no use for it.
  void (*split_x)(const Job&, const Matrix&, SplitX&);
  // What a decode step does between its matrices; see attention.h.
  void (*normalize)(int32_t kind, const void* x, const void* weight, int64_t width, float epsilon,
                    void* out);
  void (*rotate)(int32_t kind, void* heads, int64_t num_heads, int64_t width, const void* cosines,
                 const void* sines);
  void (*attend)(const Attention&, int64_t head);
};

} // namespace prosparse
