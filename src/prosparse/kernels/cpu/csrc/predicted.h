// SPDX-License-Identifier: Apache-2.0
// The FFN behind a predictor, in one call. Part of library.cpp, whose steps it puts together.
#pragma once

// 1 where a logit is not below the cut (NaN is not), 0 elsewhere, in place.
template <typename E>
void to_mask(E* logits, int64_t count, float cut) {
  for (int64_t i = 0; i < count; ++i) round_to(widen(logits[i]) < cut ? 0.0f : 1.0f, logits + i);
}

void to_mask(const Job& job, void* logits, int64_t count, float cut) {
  if (job.kind == BFLOAT16) return to_mask(static_cast<Bf16*>(logits), count, cut);
  if (job.kind == FLOAT16) return to_mask(static_cast<Fp16*>(logits), count, cut);
  to_mask(static_cast<float*>(logits), count, cut);
}

// The gate's activation, of rows that hold its products.
void activate_rows(const Job& job, Workspace& work) {
  for (int64_t i = 0; i < work.num_rows * job.tokens; ++i) {
    float pre = work.values[i];
    if (job.shift != 0.0f) pre = rounded(pre - job.shift, job.kind);
    work.values[i] = pre < job.threshold ? 0.0f : pre;
  }
  drop_zeros(job, work);
}

// `predictor` has fc1 as its gate and the transpose of fc2 as its down projection, whose rows are as long
// as the FFN has neurons.
void run_predicted(const Job& predictor, const Job& ffn, float cut) {
  thread_local Buffers buffers;
  const int64_t count = ffn.tokens * ffn.d_ff;
  Job logits = predictor;
  logits.d_model = ffn.d_ff;
  logits.y = buffers.mask.of<float>(count);
  Workspace hidden = prepare(predictor, buffers);
  list_rows(predictor, hidden);
  sum_down(logits, hidden);
  to_mask(ffn, logits.y, count, cut);

  Job gate = ffn; // the prediction in place of a gate, the gate in place of the up projection
  gate.gate_pre = logits.y;
  gate.gate = Matrix{};
  gate.up = ffn.gate;
  gate.up_bias = ffn.gate_bias;
  gate.threshold = gate.shift = 0.0f;
  gate.up_relu = 0;
  Workspace work = prepare(gate, buffers);
  list_rows(gate, work);
  multiply_up(gate, work);
  activate_rows(ffn, work);
  if (ffn.up.values) {
    if (!take_alike(ffn.gate, ffn.up)) {
      work.x_of_up = prepared_x(ffn, work.stride, ffn.up, work.split_of_up, buffers.x_of_up);
    }
    multiply_up(ffn, work);
  }
  sum_down(ffn, work);
}
