# SPDX-License-Identifier: Apache-2.0
"""The operators of `prosparse.kernels.reference` in Triton.

Those of decode are the backend for GPUs without CUDA C++; `reglu`, of training, is on every GPU.

A program of the former works on a block of neurons and all tokens at once. It holds its products with
the last reduction still open, [tokens, neurons, columns] in float32, and sums them at the end; no
tensor core is used, so float32 stays float32. Rows that no token needs are masked out of the loads.
`sparse_down` is cut into column blocks and pieces of the neurons; the pieces' sums go through a
float32 workspace and are added in a fixed order, so two runs are equal to the last bit.
Values are held in float32, rounded to the dtype of the activations where the reference rounds.
"""

from prosparse.kernels.triton.activity import count_active, count_activity, sample_activity
from prosparse.kernels.triton.gate_up import gate_up
from prosparse.kernels.triton.reglu import reglu, reglu_backward
from prosparse.kernels.triton.sparse_down import sparse_down
from prosparse.kernels.triton.sparse_ffn import sparse_ffn
from prosparse.kernels.triton.sparse_up import sparse_up

__all__ = [
    "count_active",
    "count_activity",
    "gate_up",
    "reglu",
    "reglu_backward",
    "sample_activity",
    "sparse_down",
    "sparse_ffn",
    "sparse_up",
]
