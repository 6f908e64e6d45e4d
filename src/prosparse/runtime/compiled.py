# SPDX-License-Identifier: Apache-2.0
"""`torch.compile` for decode steps: one token, many short kernels, most of the time in weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from prosparse.runtime.together import LaunchTogether

Step = TypeVar("Step", bound=Callable[..., Any])


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile has what it needs: on a CPU, a C++ compiler."""
    return device.type != "cpu" or shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_step(
    function: Step, mode: str, device: torch.device, keeps_shared_inputs: bool = False
) -> Step:
    """Return a step compiled whole.

    Args:
        function: What to compile; the same shapes in every call.
        mode: Of torch.compile, such as `default` or `max-autotune-no-cudagraphs`.
        device: Where it runs.
        keeps_shared_inputs: Compute what several products read, such as a normalized input, once. Left
            to itself, Inductor computes it anew for every row of every product; beside the operators
            of a sparse FFN that took three times the time of the product, in half the layers of a
            LLaMA2-7B decode, while a dense decode was the slower for keeping it.
    """
    options: dict[str, Any] = dict(torch._inductor.list_mode_options(mode))
    options["post_grad_custom_pre_pass"] = LaunchTogether()
    if keeps_shared_inputs:
        options["realize_reads_threshold"] = 1
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0):
        options["triton.enable_pdl"] = True  # a kernel starts while the last one ends
    return cast("Step", torch.compile(function, options=options, fullgraph=True))
