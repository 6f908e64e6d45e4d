# SPDX-License-Identifier: Apache-2.0
"""`prosparse.accelerate`: let a ReLU model skip its zeros while it generates."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

from prosparse.errors import UserError
from prosparse.kernels.backend import BACKENDS, choose_backend, use_backend, why_not
from prosparse.kernels.cpu.memory import move_onto_huge_pages
from prosparse.kernels.ops import MAX_TOKENS
from prosparse.kernels.screen import GROUP_SIZE
from prosparse.model.activation import ShiftedReLU
from prosparse.model.quantized import QuantizedLinear
from prosparse.runtime import few_tokens
from prosparse.runtime.eligible import eligible_ffns, projections
from prosparse.runtime.neuron_major import (
    is_neuron_major,
    make_neuron_major,
    make_row_major,
    rows_by_neuron,
)
from prosparse.runtime.predicted import PredictedPath, predictors_for
from prosparse.runtime.sparse_ffn import (
    SparsePath,
    build_screen,
    is_swapped,
    swap_in,
    swap_out,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from prosparse.kernels.backend import Backend
    from prosparse.model.ffn import FFN
    from prosparse.predictors.predictor import Predictor, Predictors


# Tokens at once up to which skipping neurons surely pays: with more, few are zero for all of them.
DEFAULT_MAX_TOKENS = 8


class Accelerated:
    """A model whose FFNs have a sparse path, and the way back; `accelerate` makes it.

    As a context manager it calls `remove` on leaving. `str()` says what runs where, and why not
    something faster.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        found: list[FFN],
        max_tokens: int,
        screened: bool = False,
        predictors: Sequence[Predictor] = (),
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.is_screened = screened
        self.is_predicted = bool(predictors)
        self._predictors = predictors
        self._ffns = found
        self._undo = contextlib.ExitStack()

    @property
    def backends(self) -> dict[str, Backend]:
        """The backend of every FFN by its name, such as `model.layers.0.mlp`; first layer first."""
        return {ffn.name: choose_backend(_device(ffn)) for ffn in self._ffns}

    @property
    def why_not(self) -> dict[Backend, str]:
        """Why a faster backend runs none of the FFNs: a sentence for each of them."""
        running = set(self.backends.values())
        faster = BACKENDS[: min(BACKENDS.index(backend) for backend in running)] if running else ()
        reasons = {backend: why_not(backend, _device(self._ffns[0])) for backend in faster}
        return {backend: reason for backend, reason in reasons.items() if reason is not None}

    def remove(self) -> None:
        """Take the sparse path away; the model is what it was. A second call does nothing."""
        self._undo.close()

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        running = list(self.backends.values())
        counts = [f"{running.count(name)} on {name}" for name in BACKENDS if name in running]
        kind = "Predicted" if self.is_predicted else "Sparse"
        return " ".join([f"{kind} FFNs: {', '.join(counts)}.", *self.why_not.values()])

    def _install(self, backend: Literal["auto"] | Backend) -> None:
        if backend != "auto":
            self._undo.enter_context(use_backend(backend))
        for ffn in self._ffns:
            for module in swap_in(ffn, self._path(ffn)):
                self._undo.callback(swap_out, module)
            down = ffn.down
            for projection in projections(ffn).values():
                if not is_neuron_major(projection, is_down=projection is down):
                    make_neuron_major(projection)
                    self._undo.callback(make_row_major, projection)
            if self.is_screened:
                build_screen(ffn)
        # Down projections lie apart: when they are turned back, their memory is free as a whole.
        downs = [ffn.down for ffn in self._ffns]
        parts = [part for ffn in self._ffns for part in projections(ffn).values()]
        others = [part for part in parts if all(part is not down for down in downs)]
        others += self._read_rows_of_other_projections()
        for modules in (downs, others):
            move_onto_huge_pages([t for m in modules for t in few_tokens.stored(m)])

    def _path(self, ffn: FFN) -> SparsePath:
        if self.is_predicted:
            return PredictedPath(ffn, self.max_tokens, self._predictors[ffn.layer])
        return SparsePath(ffn, self.max_tokens, self.is_screened)

    def _read_rows_of_other_projections(self) -> list[nn.Module]:
        """Read attention's and the head by rows: plain ones where our kernel is faster, packed ones anywhere.

        Returns them.
        """
        inside = {id(part) for ffn in self._ffns for part in projections(ffn).values()}
        modules = [module for module in self.model.modules() if id(module) not in inside]
        plain = [
            module
            for module in few_tokens.plain_linears(modules)
            if choose_backend(module.weight.device) in ("cuda", "cpu")
        ]
        found = plain + few_tokens.packed_projections(modules)
        for projection in found:
            few_tokens.swap_in(projection, self.max_tokens)
            self._undo.callback(few_tokens.swap_out, projection)
        return found


def accelerate(
    model: PreTrainedModel,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    backend: Literal["auto", "predicted"] | Backend = "auto",
    screened: bool = False,
    predictors: str | Path | Predictors | None = None,
) -> Accelerated:
    """Give every FFN of a ReLU model a sparse path for the tokens it generates, in place.

    It is exact, but for the backend `predicted`: there a predictor says which neurons are needed, and
    what it misses is missing.

    A pass over at most `max_tokens` tokens (batch times sequence: the decode step) reads only the
    weights of active neurons, through `prosparse.kernels`. Longer passes (the prompt), autocast,
    gradients and hooks on a part of an FFN go through the model's own forward. With CUDA kernels or
    those of the CPU the dense projections, of attention and the head, take the same way through
    `prosparse.kernels.linear`, and with any those in few bits: they are most of what a sparse model
    still reads. Each weight is held
    once: down projections are laid out by neurons and keep their shape, so the model still saves
    as a stock checkpoint. Compiled code made before is compiled again.

    Args:
        model: A causal language model with ReLU, dReLU, FATReLU or shifted ReLU, neither compiled nor
            wrapped; thresholds may differ between layers.
        max_tokens: From 1 to 16. The more tokens, the fewer neurons are zero for all of them.
        backend: `auto` takes the fastest that runs: `cuda`, `triton`, `cpu`, `reference` (plain
            PyTorch: correct, not fast). Another holds for all models of this process until `remove`.
            `predicted` goes by `predictors` and takes the fastest for what is left.
        screened: Keep an int8 copy of every gate, a sixth more memory for the FFNs, and read the
            gate's own rows only where the copy cannot rule a neuron out (`prosparse.kernels.screen`).
            The results are the same; on a GPU and from d_model 1024 on it is faster. Code compiled
            or captured with it holds only as long as the gates keep their values.
        predictors: Of `predicted`: the folder of `prosparse predictor fit`, or of `model_N.pt` files.

    Returns:
        What takes it away again: `remove()`, or the end of a `with` block.

    Raises:
        UserError: The model has a dense activation function, weights of another kind, weights that
            are shared or not here, is accelerated already, the backend does not run, or the predictors
            are missing, in the way or not of this model.

    Example:
        >>> import prosparse as ps
        >>> network = ps.load("runs/demo/model")
        >>> with ps.accelerate(network) as accelerated:
        ...     print(accelerated)
        ...     ps.generate(network, "The capital of France is")
    """
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise UserError(f"max_tokens must be from 1 to {MAX_TOKENS}; found {max_tokens}.")
    found = eligible_ffns(model)
    chosen: Sequence[Predictor] = ()
    if backend == "predicted":
        if screened:
            raise UserError("A screen is for the exact way; accelerate with it or with predictors.")
        chosen, backend = predictors_for(model, found, predictors), "auto"
    elif predictors is not None:
        raise UserError("Predictors are for backend='predicted'; the other backends are exact.")
    _refuse_backend(backend, found)
    if screened:
        _refuse_screen(found)
    accelerated = Accelerated(model, found, max_tokens, screened, chosen)
    try:
        accelerated._install(backend)
    except BaseException:  # out of memory or Ctrl-C half-way
        accelerated.remove()
        raise
    return accelerated


def is_accelerated(model: PreTrainedModel) -> bool:
    """Return whether `accelerate` has been called on a model and not undone."""
    return any(is_swapped(module) for module in model.modules())


def _refuse_backend(backend: str, found: list[FFN]) -> None:
    if backend == "auto":
        return
    if backend not in BACKENDS:
        raise UserError(
            f"There is no backend '{backend}'; choose one of auto, {', '.join(BACKENDS)}, predicted."
        )
    for device in {_device(ffn) for ffn in found}:
        reason = why_not(backend, device)
        if reason is not None:
            raise UserError(reason)


def _refuse_screen(found: list[FFN]) -> None:
    for ffn in found:
        if ffn.d_model % GROUP_SIZE:
            raise UserError(
                f"A screen needs a d_model that is a multiple of {GROUP_SIZE}; that of {ffn.name} is "
                f"{ffn.d_model}. Accelerate without it."
            )
        gate = ffn.module.get_submodule(ffn.family.gate or ffn.family.up)
        if isinstance(gate, QuantizedLinear):
            raise UserError(
                f"The gate of {ffn.name} is quantized, and as small as a screen of it would be; "
                "accelerate without one."
            )
        if isinstance(ffn.activation, ShiftedReLU):
            raise UserError("A screen is for ReLU and FATReLU, not for shifted ReLU.")


def _device(ffn: FFN) -> torch.device:
    return rows_by_neuron(ffn.down, is_down=True).device
