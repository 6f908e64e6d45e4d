# SPDX-License-Identifier: Apache-2.0
"""`prosparse bench ops`: the sparse operators against dense ones and against the hardware."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prosparse.benchmarking.contenders import Contender, contenders
from prosparse.benchmarking.layers import Layer, make_layers, set_mask
from prosparse.benchmarking.limit import measure_limit
from prosparse.benchmarking.machine import read_clocks
from prosparse.benchmarking.plan import Case, choose_backends, count_copies, plan_cases
from prosparse.benchmarking.reference import error_bounds, relative_error
from prosparse.benchmarking.timing import (
    COMPILATIONS,
    METHOD,
    METHOD_CPU,
    Repeats,
    Replay,
    Spread,
    Stopwatch,
)
from prosparse.errors import UserError
from prosparse.kernels.backend import Backend, use_backend
from prosparse.model.device import choose_device, provenance
from prosparse.model.shapes import Shape, parse_shapes
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.speed import BenchedShape, NotRun, OpsRow, OpsSpeedRecord, SpeedLimit

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
QUICK = Repeats(warmup=2, timed=9)

LOG = logging.getLogger(__name__)

OnRow = Callable[[OpsRow], None]


def bench_ops(
    shapes: Sequence[str] = ("llama2-7b",),
    *,
    dtype: str = "bfloat16",
    sparsity: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
    masks: Sequence[str] | None = None,
    compiled: bool = True,
    quick: bool = False,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_row: OnRow | None = None,
) -> OpsSpeedRecord:
    """Time the sparse operators on random weights, each result checked before and after.

    At the first number of tokens every mask runs at every sparsity; the other numbers of tokens
    run at the sparsity next to 0.893, with the first mask and with real ones.

    Args:
        shapes: Names (`llama2-7b`, `llama2-13b`, `minicpm-1b`, `smollm2-135m`) or `DxF`.
        dtype: `bfloat16`, `float16` or `float32`.
        sparsity: Shares of inactive neurons to run, in [0, 1]; None is 0 to 0.98.
        tokens: Numbers of tokens to run at once, 1 to 16; None is 1, 2, 4, 8 and 16.
        masks: None is `random` and `clustered`. Each is `random`, `clustered`, or a `.npy` file of activations [tokens, d_ff], whose
            non-zeros are the active neurons (it has a sparsity of its own).
        compiled: Also time a dense FFN compiled with max-autotune; on a GPU only.
        quick: For a first look: few repeats, and where nothing is given one mask, one token and
            three sparsities.
        device: `auto`, `cpu`, `cuda`, ...
        seed: Of weights, inputs and masks.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.
        on_row: Called with each row as it is measured.

    Returns:
        The record. A row whose result was wrong has no time and `is_wrong`.

    Raises:
        UserError: An option is out of range, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.bench_ops(["smollm2-135m"], quick=True)
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(Path(out), overwrite)
    parsed = parse_shapes(shapes)
    cases = plan_cases(masks, sparsity, tokens, parsed, quick)
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}; found '{dtype}'.")
    where = choose_device(device)
    repeats = QUICK if quick else Repeats()
    stopwatch = Stopwatch(where, repeats)
    backends, missing = choose_backends(where)
    limit = measure_limit(where, stopwatch)
    runner = _Runner(stopwatch, limit, where, seed, on_row or (lambda row: None))
    entrants = contenders(where, backends)
    runner.not_run += missing
    if not compiled:
        entrants = [c for c in entrants if not c.is_compiled]
    benched = []
    for shape in parsed:
        num_copies = count_copies(shape, DTYPES[dtype], where)
        benched.append(BenchedShape(shape.name, shape.d_model, shape.d_ff, num_copies))
        layers = make_layers(shape, num_copies, DTYPES[dtype], where, seed)
        for case in cases:
            if case.mask.real_NF is None or case.mask.real_NF.shape[1] == shape.d_ff:
                runner.run_case(shape, layers, case, entrants)
        del layers
    record = OpsSpeedRecord(
        model=", ".join(shape.name for shape in parsed),
        shapes=tuple(benched),
        dtype=dtype,
        limit=limit,
        rows=with_speedups(runner.rows),
        not_run=tuple(dict.fromkeys(runner.not_run)),
        num_warmups=repeats.warmup,
        num_repeats=repeats.timed,
        method=METHOD if where.type == "cuda" else METHOD_CPU,
        clocks=read_clocks(where),
        seconds=time.monotonic() - started,
        provenance=provenance(where, seed),
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            write_record(record, folder)
    return record


class _Runner:
    """Runs contenders and keeps their rows."""

    def __init__(
        self,
        stopwatch: Stopwatch,
        limit: SpeedLimit,
        device: torch.device,
        seed: int,
        on_row: OnRow,
    ) -> None:
        self._stopwatch, self._limit, self._device = stopwatch, limit, device
        self._seed, self._on_row = seed, on_row
        self._bounds: dict[str, float] = {}
        self.rows: list[OpsRow] = []
        self.not_run: list[NotRun] = []

    def run_case(
        self, shape: Shape, layers: list[Layer], case: Case, entrants: Iterable[Contender]
    ) -> None:
        """Run every contender on fresh inputs; dense ones once for each number of tokens."""
        self._seed += 1
        asked = set_mask(layers, case.mask, case.num_tokens, case.sparsity, self._seed)
        self._bounds = error_bounds(layers)
        for contender in entrants:
            reason = contender.why_not(layers[0])
            if reason is not None:
                self.not_run.append(NotRun(f"{contender.name} at {shape.name}", reason))
            elif not (contender.is_dense and self._has_run(contender, shape, case.num_tokens)):
                self._keep(contender, shape, layers, case, asked)

    def _keep(
        self,
        contender: Contender,
        shape: Shape,
        layers: list[Layer],
        case: Case,
        asked: tuple[float, float],
    ) -> None:
        try:
            row = self._run_fastest(contender, shape, layers, case, asked)
        except Exception as error:  # one that fails must not cost the times of all others
            reason = f"failed with {type(error).__name__}: {error}".splitlines()[0]
            failure = NotRun(f"{contender.name} at {shape.name}", reason, is_failure=True)
            if failure not in self.not_run:
                LOG.exception("%s failed", contender.name)
            self.not_run.append(failure)
            return
        self.rows.append(row)
        self._on_row(with_speedups(self.rows)[-1])

    def _has_run(self, contender: Contender, shape: Shape, num_tokens: int) -> bool:
        # Compiling takes the longest of all, so it is done for one number of tokens.
        return any(
            row.shape == shape.name
            and row.step == contender.step
            and row.contender == contender.name
            and (row.num_tokens == num_tokens or contender.is_compiled)
            for row in self.rows
        )

    def _run_fastest(
        self,
        contender: Contender,
        shape: Shape,
        layers: list[Layer],
        case: Case,
        asked: tuple[float, float],
    ) -> OpsRow:
        """Run once; what autotuning makes differs from time to time, and its fastest counts."""
        if not contender.is_compiled:
            return self._run(contender, shape, layers, case, asked)
        rows = []
        for _ in range(COMPILATIONS):
            torch.compiler.reset()
            with torch._inductor.config.patch(force_disable_caches=True):
                rows.append(self._run(contender, shape, layers, case, asked))
        return min(rows, key=lambda row: math.inf if row.us is None else row.us)

    def _run(
        self,
        contender: Contender,
        shape: Shape,
        layers: list[Layer],
        case: Case,
        asked: tuple[float, float],
    ) -> OpsRow:
        references = [contender.reference(layer) for layer in layers]
        with on_backend(contender.backend):
            replay = Replay([contender.build(layer) for layer in layers], self._device)
            error = worst_error(replay, references)
            bound = self._bounds[contender.step]
            times: Spread | None = None
            if error <= bound:
                times = self._stopwatch.time(replay)
                error = max(error, worst_error(replay, references))
        is_right = error <= bound
        mb = 1e-6 * sum(contender.num_bytes(layer) for layer in layers) / len(layers)
        return OpsRow(
            shape=shape.name,
            step=contender.step,
            contender=contender.name,
            is_dense=contender.is_dense,
            is_compiled=contender.is_compiled,
            weight_bits=contender.weight_bits,
            num_tokens=case.num_tokens,
            mask=case.mask.name,
            sparsity=asked[0],
            union=asked[1],
            mb=mb,
            us=times.median if times and is_right else None,
            us_p10=times.p10 if times and is_right else None,
            us_p90=times.p90 if times and is_right else None,
            error=error,
            error_bound=bound,
            limit_us=self._limit.us(mb),
        )


def worst_error(replay: Replay, references: Sequence[Tensor]) -> float:
    """Run with poisoned outputs; return the largest error of any copy (NaN counts as infinite)."""
    outputs = replay.run_poisoned()
    return max(relative_error(out, ref) for out, ref in zip(outputs, references, strict=True))


def on_backend(name: Backend | None) -> contextlib.AbstractContextManager[object]:
    """Return a context in which the operators of `prosparse.kernels` run on a backend."""
    return contextlib.nullcontext() if name is None else use_backend(name)


def with_speedups(rows: Sequence[OpsRow]) -> tuple[OpsRow, ...]:
    """Return the rows with their speedups over the dense rows of the same shape, step and tokens.

    The compiled FFN is timed at one number of tokens only and compared with nothing else.
    """
    plain: dict[tuple[str, str, int], float] = {}
    compiled: dict[tuple[str, str, int], float] = {}
    for row in rows:
        if row.is_dense and row.us is not None:
            found = compiled if row.is_compiled else plain
            found[row.shape, row.step, row.num_tokens] = row.us

    def over(found: dict[tuple[str, str, int], float], row: OpsRow) -> float | None:
        dense = found.get((row.shape, row.step, row.num_tokens))
        return None if dense is None or row.us is None else dense / row.us

    return tuple(
        replace(row, speedup=over(plain, row), speedup_compiled=over(compiled, row)) for row in rows
    )
