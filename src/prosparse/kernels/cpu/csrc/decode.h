// SPDX-License-Identifier: Apache-2.0
// One token's way through a whole Llama in one call. Part of library.cpp, whose steps it puts together.
//
// A token of a small model is hundreds of short steps. They are handed out to threads that spin until
// the token is done, and nothing is asked of Python or PyTorch in between.
#pragma once

struct DecodeBuffers {
  Buffer hidden, normal, query, mixed, scores, positions;
};

// What one token is worked on in; all of it belongs to the calling thread.
struct Token {
  char *hidden, *normal; // [D]
  char *query, *mixed;   // [heads, head_dim]: what attention takes and gives
  float* scores;
  int32_t* positions;
  int64_t stride; // of the scores of a head
};

int64_t size_of(int32_t kind) { return kind == FLOAT32 ? 4 : 2; }

// Row `index` of a matrix as numbers of `kind`.
void unpack_row(const Matrix& matrix, int64_t index, int64_t width, int32_t kind, void* out) {
  if (matrix.kind != INT8 && matrix.kind != INT4) {
    const int64_t num_bytes = width * size_of(kind);
    std::memcpy(out, static_cast<const char*>(matrix.values) + index * num_bytes, num_bytes);
    return;
  }
  const uint16_t* scales = matrix.scales + index * (width / matrix.group);
  const auto* bytes = static_cast<const uint8_t*>(matrix.values) +
                      index * (matrix.kind == INT8 ? width : width / 2);
  for (int64_t i = 0; i < width; ++i) {
    float value;
    if (matrix.kind == INT8) {
      value = static_cast<int8_t>(bytes[i]);
    } else { // of eight values, byte j of four holds values j and j + 4
      value = static_cast<float>((bytes[i / 8 * 4 + i % 4] >> (i / 4 % 2 * 4) & 15) - 8);
    }
    put(out, kind, i, value * widen(Fp16{scales[i / matrix.group]}));
  }
}

// out = projection of x, plus `residual` if there is one.
void project(const Decode& decode, Job& job, const void* x, void* out, const void* residual) {
  job.num_threads = decode.num_threads;
  job.x = x, job.x1 = out, job.residual = residual;
  run_projections(&job, 1);
}

void attend_to_past(const Decode& decode, Layer& layer, const Token& token) {
  const int64_t row = decode.head_dim * size_of(decode.kind), num_kv = decode.num_kv_heads;
  // The heads lie apart in the cache, so what is new is computed elsewhere first.
  char *keys = token.mixed, *values = token.mixed + num_kv * row;
  Job jobs[] = {layer.query, layer.key, layer.value};
  char* outputs[] = {token.query, keys, values};
  for (int i = 0; i < 3; ++i) {
    jobs[i].num_threads = decode.num_threads;
    jobs[i].x = token.normal, jobs[i].x1 = outputs[i];
  }
  run_projections(jobs, 3);
  const int64_t angle = decode.position * row;
  const char* cosines = static_cast<const char*>(decode.cosines) + angle;
  const char* sines = static_cast<const char*>(decode.sines) + angle;
  chosen->rotate(decode.kind, token.query, decode.num_heads, decode.head_dim, cosines, sines);
  chosen->rotate(decode.kind, keys, num_kv, decode.head_dim, cosines, sines);
  for (int64_t h = 0; h < num_kv; ++h) {
    const int64_t place = (h * decode.max_length + decode.position) * row;
    std::memcpy(static_cast<char*>(layer.keys) + place, keys + h * row, row);
    std::memcpy(static_cast<char*>(layer.values) + place, values + h * row, row);
  }
  Attention attention{decode.kind, decode.head_dim, decode.num_heads / num_kv, decode.max_length,
                      decode.position + 1, token.stride, decode.scaling, token.query, layer.keys,
                      layer.values, token.mixed, token.positions, token.scores};
  const Body body = [](void* context, int64_t head) {
    chosen->attend(*static_cast<const Attention*>(context), head);
  };
  parallel_for(decode.num_threads, decode.num_heads, body, &attention);
}

// The first of the largest logits of [first, last); NaN is larger than all, as in torch.argmax.
int64_t first_largest(const Decode& decode, int64_t first, int64_t last) {
  int64_t found = first;
  float largest = get(decode.logits, decode.kind, first);
  for (int64_t i = first + 1; i < last; ++i) {
    const float value = get(decode.logits, decode.kind, i);
    if (value <= largest || largest != largest) continue;
    found = i, largest = value;
  }
  return found;
}

// Write the logits and choose.
void choose(Decode& decode, const Token& token) {
  constexpr int64_t MOST_CHUNKS = 64;
  project(decode, decode.head, token.normal, decode.logits, nullptr);
  struct Search {
    const Decode& decode;
    int64_t each, best[MOST_CHUNKS];
  } search{decode, ceil_div(decode.head.d_ff, MOST_CHUNKS), {}};
  const int64_t num_chunks = ceil_div(decode.head.d_ff, search.each);
  const Body body = [](void* context, int64_t chunk) {
    auto& search = *static_cast<Search*>(context);
    const int64_t first = chunk * search.each;
    const int64_t last = std::min(first + search.each, search.decode.head.d_ff);
    search.best[chunk] = first_largest(search.decode, first, last);
  };
  parallel_for(decode.num_threads, num_chunks, body, &search);
  decode.likeliest = search.best[0];
  for (int64_t chunk = 1; chunk < num_chunks; ++chunk) {
    const float value = get(decode.logits, decode.kind, search.best[chunk]);
    const float largest = get(decode.logits, decode.kind, decode.likeliest);
    if (value <= largest || largest != largest) continue;
    decode.likeliest = search.best[chunk];
  }
}

void run_token(Decode& decode) {
  thread_local DecodeBuffers buffers;
  const int64_t size = size_of(decode.kind), width = decode.d_model;
  const int64_t attended = std::max(decode.num_heads, 2 * decode.num_kv_heads) * decode.head_dim;
  Token token{};
  token.stride = ceil_div(decode.max_length, LANES) * LANES;
  token.hidden = buffers.hidden.of<char>(width * size);
  token.normal = buffers.normal.of<char>(width * size);
  token.query = buffers.query.of<char>(attended * size);
  token.mixed = buffers.mixed.of<char>(attended * size);
  token.scores = buffers.scores.of<float>(decode.num_heads * token.stride);
  token.positions = buffers.positions.of<int32_t>(token.stride + LANES);
  for (int64_t i = 0; i < token.stride + LANES; ++i) token.positions[i] = static_cast<int32_t>(i);

  unpack_row(decode.table, decode.token, width, decode.kind, token.hidden);
  const auto normalize = [&](const void* weight) {
    chosen->normalize(decode.kind, token.hidden, weight, width, decode.epsilon, token.normal);
  };
  for (int64_t l = 0; l < decode.num_layers; ++l) {
    Layer& layer = decode.layers[l];
    normalize(layer.attention_norm);
    attend_to_past(decode, layer, token);
    project(decode, layer.output, token.mixed, token.hidden, token.hidden);
    normalize(layer.ffn_norm);
    layer.ffn.num_threads = decode.num_threads;
    layer.ffn.x = token.normal;
    layer.ffn.y = token.hidden;
    layer.ffn.residual = token.hidden;
    run_steps(layer.ffn);
  }
  normalize(decode.norm);
  choose(decode, token);
}

// Returns whether memory was found.
bool decode_token(Decode& decode) {
  struct Call {
    Decode& decode;
    bool is_done;
  } call{decode, false};
  const auto body = [](void* context) {
    auto& call = *static_cast<Call*>(context);
    try { // no exception may leave a parallel region
      run_token(call.decode);
      call.is_done = true;
    } catch (const std::bad_alloc&) {
    }
  };
  with_team(decode.num_threads, body, &call);
  return call.is_done;
}
