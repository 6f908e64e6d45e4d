// SPDX-License-Identifier: Apache-2.0
// The steps of a job one after another, each in pieces on all threads. Part of library.cpp.
#pragma once

// Bring what the chunks found together, in order.
void close_gaps(const Job& job, Workspace& work, int64_t num_chunks) {
  int64_t count = 0;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const int64_t first = chunk * work.neurons_per_chunk, found = work.counts[chunk];
    std::memmove(work.rows + count, work.rows + first, static_cast<size_t>(found) * sizeof(int32_t));
    std::memmove(work.values + count * job.tokens, work.values + first * job.tokens,
                 static_cast<size_t>(found * job.tokens) * sizeof(float));
    count += found;
  }
  work.num_rows = count;
}

// A neuron whose x_1 is zero for all tokens after all (up may be zero too) is not read again.
void drop_zeros(const Job& job, Workspace& work) {
  int64_t count = 0;
  for (int64_t i = 0; i < work.num_rows; ++i) {
    bool is_needed = false;
    for (int64_t t = 0; t < job.tokens; ++t) {
      const float value = work.values[i * job.tokens + t];
      is_needed |= value != 0.0f;
      work.values[count * job.tokens + t] = value;
    }
    work.rows[count] = work.rows[i];
    count += is_needed;
  }
  work.num_rows = count;
}

void write_x1(const Job& job, const Workspace& work) {
  const size_t size = job.kind == FLOAT32 ? 4 : 2;
  std::memset(job.x1, 0, static_cast<size_t>(job.tokens * job.d_ff) * size);
  for (int64_t i = 0; i < work.num_rows; ++i) {
    for (int64_t t = 0; t < job.tokens; ++t) {
      put(job.x1, job.kind, t * job.d_ff + work.rows[i], work.values[i * job.tokens + t]);
    }
  }
}

// Whether x is prepared for the products with one matrix as for those with another.
bool take_alike(const Matrix& one, const Matrix& other) {
  return one.kind == other.kind && one.group == other.group;
}

// Memory for a job's steps, and its x in the orders of the matrices that it is multiplied with.
Workspace prepare(const Job& job, Buffers& buffers) {
  Workspace work{};
  work.stride = ceil_div(job.d_model, BLOCK) * BLOCK;
  work.neurons_per_chunk = ceil_div(job.d_ff, num_pieces(job, job.gate, job.d_ff));
  work.rows = buffers.rows.of<int32_t>(job.d_ff);
  work.values = buffers.values.of<float>(job.d_ff * job.tokens);
  work.counts = buffers.counts.of<int32_t>(ceil_div(job.d_ff, work.neurons_per_chunk));
  if (job.gate.values) {
    work.x_of_gate =
        prepared_x(job, work.stride, job.gate, work.split_of_gate, buffers.x_of_gate);
  }
  if (job.up.values) {
    if (job.gate.values && take_alike(job.gate, job.up)) {
      work.x_of_up = work.x_of_gate, work.split_of_up = work.split_of_gate;
    } else {
      work.x_of_up = prepared_x(job, work.stride, job.up, work.split_of_up, buffers.x_of_up);
    }
  }
  return work;
}

// Step (1): which neurons are needed.
void list_rows(const Job& job, Workspace& work) {
  const int64_t num_chunks = ceil_div(job.d_ff, work.neurons_per_chunk);
  run_pieces<&Variant::gate_chunk>(job, work, num_chunks);
  close_gaps(job, work, num_chunks);
}

// Step (2).
void multiply_up(const Job& job, Workspace& work) {
  const int64_t wanted = ceil_div(work.num_rows, num_pieces(job, job.up, work.num_rows));
  work.rows_per_unit = wanted < LEAST_ROWS ? LEAST_ROWS : wanted;
  run_pieces<&Variant::up_unit>(job, work, ceil_div(work.num_rows, work.rows_per_unit));
  drop_zeros(job, work);
}

// Step (3).
void sum_down(const Job& job, Workspace& work) {
  int64_t columns = ceil_div(job.d_model, job.num_threads > 0 ? job.num_threads : 1);
  columns = columns < LEAST_TILE ? LEAST_TILE : ceil_div(columns, BLOCK) * BLOCK;
  const int64_t most = MOST_TILE_FLOATS / job.tokens / BLOCK * BLOCK;
  work.columns_per_tile = columns < most ? columns : most;
  run_pieces<&Variant::down_tile>(job, work, ceil_div(job.d_model, work.columns_per_tile));
}

void run_steps(const Job& job) {
  thread_local Buffers buffers;
  Workspace work = prepare(job, buffers);
  list_rows(job, work);
  if (job.up.values) multiply_up(job, work);
  if (job.x1) write_x1(job, work);
  if (job.y) sum_down(job, work);
}
