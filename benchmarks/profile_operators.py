# SPDX-License-Identifier: Apache-2.0
"""Each sparse operator once, for a profiler that reads hardware counters.

ncu --profile-from-start off --cache-control all --clock-control none --csv --page raw \
    --section SpeedOfLight --section MemoryWorkloadAnalysis --section WarpStateStats \
    --section Occupancy --section LaunchStats python benchmarks/profile_operators.py > counters.csv
"""

from __future__ import annotations

import torch

from prosparse.kernels import ops
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.screen import make_screen
from prosparse.model.shapes import model_shape

SHAPES = ("llama2-7b", "llama2-13b", "minicpm-1b", "smollm2-135m")
SPARSITY = 0.893


def run(name: str) -> None:
    """Call every operator on random bfloat16 weights of a shape, with random neurons active."""
    shape = model_shape(name)
    D, F = shape.d_model, shape.d_ff
    torch.manual_seed(0)
    gate, up, downT = (torch.randn(F, D, device="cuda").div(D**0.5).bfloat16() for _ in range(3))
    x = torch.randn(1, D, device="cuda").bfloat16()
    gate_pre = x @ gate.T
    threshold = float(gate_pre.float().flatten().kthvalue(round(SPARSITY * F)).values)
    weights = FFNWeights(gate, up, downT, threshold=threshold)
    screen = make_screen(gate)
    calls = {
        "sparse_up": lambda: ops.sparse_up(gate_pre, x, up, threshold),
        "sparse_down": lambda: ops.sparse_down(x1, downT),
        "sparse_ffn": lambda: ops.sparse_ffn(x, weights),
        "screened_ffn": lambda: ops.screened_ffn(x, weights, screen),
    }
    x1 = calls["sparse_up"]()
    for call in calls.values():
        call()  # compiles
    torch.cuda.synchronize()
    for operator, call in calls.items():
        with torch.cuda.nvtx.range(f"{name} {operator}"):
            torch.cuda.profiler.start()
            call()
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    for name in SHAPES:
        run(name)
