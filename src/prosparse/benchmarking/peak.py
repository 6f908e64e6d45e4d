# SPDX-License-Identifier: Apache-2.0
"""What a training step computes, and what GPUs can: the two halves of MFU.

MFU, the model FLOPs utilization of PaLM's Appendix B (arXiv:2204.02311), is the share of a GPU's peak
that the model's own floating-point operations take up: recomputation is not counted.
"""

from __future__ import annotations

PEAKS = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("H200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
)
"""Part of a GPU's name, and its peak for dense bfloat16 products in FLOP/s, by the maker's data sheet;
the first that matches."""


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a GPU in FLOP/s for dense bfloat16 products; None where it is not known."""
    return next((peak for part, peak in PEAKS if part in device_name), None)


def flops_per_token(num_parameters: int, num_layers: int, d_model: int, context_length: int) -> int:
    """Return the FLOPs of one token, forward and backward: 6 N + 12 L D S.

    Args:
        num_parameters: N, of matrix products: without the input embedding, which is looked up, and
            with the output head, tied or not.
        num_layers: L.
        d_model: D.
        context_length: S. Attention is counted over all of it, as PaLM does, though half is masked.
    """
    return 6 * num_parameters + 12 * num_layers * d_model * context_length
