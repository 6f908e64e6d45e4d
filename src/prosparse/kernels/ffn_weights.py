# SPDX-License-Identifier: Apache-2.0
"""The weights of one FFN as the operators read them: every matrix neuron-major, [F, D].

One neuron is then one contiguous row in each matrix, and skipping a neuron skips whole rows. A
matrix is kept in the dtype of the activations, or group-quantized with its scales beside it
(`prosparse.kernels.quantize`). T tokens, D = d_model, F = d_ff, G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class FFNWeights:
    """One FFN: down(act(gate(x)) * up(x)), or down(act(gate(x))) where `up_proj` is None.

    A plain FFN (OPT, Falcon) has its first projection, `fc1`, as `gate_proj`: it decides which
    neurons are active.
    """

    gate_proj: Tensor
    """[F, D]; int8 when quantized to 8 bits, uint8 [F, D / 2] with two values a byte for 4 bits."""
    up_proj: Tensor | None
    """Like `gate_proj`; None for a plain FFN."""
    down_projT: Tensor
    """[F, D]: the transpose of the checkpoint's `down_proj`, contiguous."""
    gate_scales: Tensor | None = None
    """float16 [F, G], when `gate_proj` is quantized."""
    up_scales: Tensor | None = None
    down_scales: Tensor | None = None
    gate_bias: Tensor | None = None
    """[F]"""
    up_bias: Tensor | None = None
    """[F]"""
    down_bias: Tensor | None = None
    """[D]"""
    threshold: float = 0.0
    """t >= 0 of FATReLU; 0 is ReLU. Compared in the dtype of the activations; ties are kept."""
    shift: float = 0.0
    """b >= 0 of shifted ReLU, max(x - b, 0); only with threshold 0."""
    up_relu: bool = False
    """dReLU (TurboSparse, Bamboo): ReLU on the up projection too."""
