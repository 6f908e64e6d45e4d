# SPDX-License-Identifier: Apache-2.0
"""Who takes part in the training benchmark: the ways to compute an intermediate, in an FFN and alone.

An intermediate is made of the two pre-activations [T, F]: x_1, and where Equation 2 is asked for its
L1 norm and its active entries. T tokens, D = d_model, F = d_ff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from prosparse.benchmarking.training_reference import Inputs, Intermediates
from prosparse.kernels.reglu import reglu

Results = dict[str, Tensor]
Intermediate = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Returns x_1, or x_1, its L1 norm and its active entries, of the gate before its activation and up."""

BASELINE = "SwiGLU"
GEMMS = "9 GEMMs and nothing else"
FUSED = "ReGLU, L1 and count, fused"
COMPILED = ", torch.compile"
EAGER = ", eager"


def swiglu(gate_pre: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """What a dense model computes."""
    return (functional.silu(gate_pre) * up,)


def plain_reglu(gate_pre: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """What a ReLU model computes."""
    return (functional.relu(gate_pre) * up,)


def hooked(gate_pre: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """The same with what a hook on the down projection adds to it."""
    x1 = functional.relu(gate_pre) * up
    return x1, x1.abs().sum(dtype=torch.float32), x1.detach().count_nonzero()


def fused_in_ffn(gate_pre: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """One kernel for all of it; the pre-activations are its own."""
    return reglu(gate_pre, up, owns_inputs=True)


def fused_alone(gate_pre: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """One kernel for all of it; the pre-activations are there to stay."""
    return reglu(gate_pre, up)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to compute a part."""

    part: Literal["ffn", "elementwise"]
    name: str
    intermediate: Intermediate
    is_compiled: bool
    is_gemms: bool = False

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """Of the gate."""
        return functional.silu if self.intermediate is swiglu else functional.relu

    @property
    def is_penalized(self) -> bool:
        """Whether the L1 norm is part of it."""
        return self.intermediate not in (swiglu, plain_reglu)

    def plain(self) -> Contender:
        """Return the contender in PyTorch's own eager operators whose rounding is allowed twice."""
        same = hooked if self.is_penalized else self.intermediate
        return Contender(self.part, self.name, same, is_compiled=False)


def contenders(is_compiling: bool) -> list[Contender]:
    """Return all that take part, the matrix products alone first; eager ones only, where wanted."""
    found = [Contender("ffn", GEMMS, hooked, is_compiled=False, is_gemms=True)]
    for part, fused in (("ffn", fused_in_ffn), ("elementwise", fused_alone)):
        for name, intermediate in (
            (BASELINE, swiglu),
            ("ReGLU", plain_reglu),
            ("ReGLU, L1 and count, hooks", hooked),
            (FUSED, fused),
        ):
            found.append(Contender(part, name + EAGER, intermediate, is_compiled=False))
            # Alone, a compiled backward pass may not write into the gradient it is given.
            if is_compiling and intermediate is not fused_alone:
                found.append(Contender(part, name + COMPILED, intermediate, is_compiled=True))
    return found


class Pass:
    """A contender ready to run forward and backward; it keeps nothing of a run.

    Args:
        contender: Not the matrix products alone.
        inputs: `Inputs` of an FFN, or `Intermediates` of the elementwise part.
    """

    num_calls = 1

    def __init__(self, contender: Contender, inputs: Inputs | Intermediates) -> None:
        *leaves, self._grad, self._grad_l1 = (getattr(inputs, name) for name in inputs.__slots__)
        self._leaves = leaves
        self._names = [name for name in inputs.__slots__ if not name.startswith("grad")]
        self._output = "y" if contender.part == "ffn" else "x1"
        run = _ffn(contender.intermediate) if contender.part == "ffn" else contender.intermediate
        if contender.is_compiled:
            run = torch.compile(run, fullgraph=True, dynamic=False)
        self._run = run

    def run(self) -> None:
        """Run once; on a GPU this only starts it."""
        self.results()

    def results(self) -> Results:
        """Run once; return outputs and gradients by name."""
        output, *seen = self._run(*self._leaves)
        outputs, slopes = [output, *seen[:1]], [self._grad, self._grad_l1]
        gradients = torch.autograd.grad(outputs, self._leaves, slopes[: len(outputs)])
        found = {self._output: output.detach()}
        found |= {f"d_{name}": d for name, d in zip(self._names, gradients, strict=True)}
        return found | {
            name: value.detach() for name, value in zip(("l1", "num_active"), seen, strict=False)
        }


class GEMMs:
    """The nine matrix products of an FFN's forward and backward pass, all else given.

    Args:
        inputs: Of the FFN.
        x1: [T, F], the rounded intermediate.
        d_gate: [T, F], the gradient of the gate before its activation, rounded.
        d_up: [T, F], likewise.
    """

    num_calls = 1

    def __init__(self, inputs: Inputs, x1: Tensor, d_gate: Tensor, d_up: Tensor) -> None:
        self._inputs, self._x1, self._d_gate, self._d_up = inputs, x1, d_gate, d_up

    def run(self) -> None:
        """Run once; on a GPU this only starts it."""
        self.results()

    @torch.no_grad()
    def results(self) -> Results:
        """Run once; return outputs and gradients by name."""
        inputs = self._inputs
        functional.linear(inputs.x, inputs.gate_proj)
        functional.linear(inputs.x, inputs.up_proj)
        found = {"y": functional.linear(self._x1, inputs.down_proj)}
        inputs.grad_y @ inputs.down_proj  # the gradient of x_1
        found["d_down_proj"] = inputs.grad_y.T @ self._x1
        found["d_gate_proj"] = self._d_gate.T @ inputs.x
        found["d_up_proj"] = self._d_up.T @ inputs.x
        d_x = self._d_gate @ inputs.gate_proj
        found["d_x"] = d_x.addmm_(self._d_up, inputs.up_proj)
        return found


def _ffn(intermediate: Intermediate) -> Callable[..., tuple[Tensor, ...]]:
    def ffn(x: Tensor, gate_proj: Tensor, up_proj: Tensor, down_proj: Tensor) -> tuple:
        gate_pre = functional.linear(x, gate_proj)
        x1, *seen = intermediate(gate_pre, functional.linear(x, up_proj))
        return functional.linear(x1, down_proj), *seen

    return ffn
