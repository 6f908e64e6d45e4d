# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel once or twice on small shapes, for a checker that makes each launch slow.

compute-sanitizer --tool memcheck --report-api-errors no python -m tests.kernels.launches
compute-sanitizer --tool racecheck python -m tests.kernels.launches
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prosparse.kernels import ops
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.kernels.linear import linear
from prosparse.kernels.quantize import quantize
from prosparse.kernels.screen import make_screen

SHAPES = ((576, 1536), (96, 1000), (67, 75), (4096, 264))  # [D, F]: narrow, ragged, odd, wide
TOKENS = (1, 5)  # one warp a row; tensor cores
DTYPES = (torch.bfloat16, torch.float32)


def launch_all(device: str) -> int:
    """Run the operators on random weights; return how many calls were made."""
    torch.manual_seed(0)
    calls = 0
    for dtype in DTYPES:
        for D, F in SHAPES:
            matrices = [torch.randn(F, D, device=device).div(D**0.5).to(dtype) for _ in range(3)]
            weights = FFNWeights(*matrices, threshold=0.5)
            for T in TOKENS:
                x = torch.randn(T, D, device=device).to(dtype)
                for ready in (False, True):
                    calls += _launch(x, weights, ready)
    return calls


def _launch(x: Tensor, weights: FFNWeights, ready: bool) -> int:
    gate, up, down = weights.gate_proj, weights.up_proj, weights.down_projT
    assert up is not None
    linear(x, gate, weights_ready=ready)
    x1 = ops.sparse_up(x @ gate.T, x, up, weights.threshold, weights_ready=ready)
    results = [
        ops.sparse_down(x1, down, weights_ready=ready),
        ops.sparse_ffn(x, weights, weights_ready=ready),
    ]
    if x.shape[1] % 64 == 0:
        results.append(ops.screened_ffn(x, weights, make_screen(gate), weights_ready=ready))
        for bits in (8, 4):
            (g, gs), (u, us), (d, ds) = (quantize(m, bits, 64) for m in (gate, up, down))
            quantized = FFNWeights(g, u, d, gs, us, ds)
            results.append(ops.sparse_ffn(x, replace(quantized, threshold=0.5)))
    assert all(torch.isfinite(y).all() for y in results)
    return 2 + len(results)


if __name__ == "__main__":
    print(launch_all("cuda"), "calls")  # noqa: T201
