# SPDX-License-Identifier: Apache-2.0
"""`prosparse bench train`: what the L1 norm and the counts cost in an FFN's forward and backward."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from prosparse.benchmarking.limit import measure_limit
from prosparse.benchmarking.machine import read_clocks
from prosparse.benchmarking.ops import DTYPES
from prosparse.benchmarking.reference import ERROR_BOUND
from prosparse.benchmarking.timing import Repeats, Stopwatch, spread
from prosparse.benchmarking.training_contenders import (
    BASELINE,
    COMPILED,
    EAGER,
    Contender,
    GEMMs,
    Pass,
    contenders,
)
from prosparse.benchmarking.training_reference import Errors, Inputs, Reference, make_inputs
from prosparse.errors import UserError
from prosparse.model.device import choose_device, provenance
from prosparse.model.shapes import parse_shapes
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.speed import NotRun, SpeedLimit
from prosparse.records.training_speed import TrainSpeedRecord, TrainSpeedRow

REPEATS, QUICK = Repeats(warmup=5, timed=40), Repeats(warmup=2, timed=7)
L1_BOUND = {torch.bfloat16: 1e-4, torch.float16: 1e-5, torch.float32: 1e-6}
SMALL = 1_000_000
"""Entries of x_1 below which rounding does not average out, and L1 norms may be off by more."""
COUNT_BOUND = {"ffn": 1e-4, "elementwise": 0.0}
ELEMENTWISE_PASSES = 3 + 5
"""Over T x F: gate and up in, x_1 out; gate, up and the gradient of x_1 in, two gradients out."""
METHOD = (
    "In a round every contender runs once, forward and backward, its time taken between two events; "
    "a contender's time over the baseline's is taken within rounds, so that clocks which fall under "
    "load are the same for both."
)
METHOD_CPU = "In a round every contender runs once, forward and backward, on a wall clock."

LOG = logging.getLogger(__name__)

OnRow = Callable[[TrainSpeedRow], None]


def bench_train(
    shape: str = "llama2-7b",
    *,
    tokens: int = 16384,
    dtype: str = "bfloat16",
    compiled: bool = True,
    quick: bool = False,
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    on_row: OnRow | None = None,
) -> TrainSpeedRecord:
    """Time one FFN forward and backward with and without the L1 norm and the count of Equation 2.

    Args:
        shape: A name (`llama2-7b`, `llama2-13b`, `minicpm-1b`, `smollm2-135m`) or `DxF`.
        tokens: In one pass.
        dtype: Of weights and activations: `bfloat16`, `float16` or `float32`.
        compiled: Also time everything under torch.compile; on a GPU only.
        quick: For a first look: few repeats.
        device: `auto`, `cpu`, `cuda`, ...
        seed: Of weights and inputs.
        out: Folder for `record.json`; None writes nothing.
        overwrite: Replace `out` if it exists.
        on_row: Called with each row once all are measured.

    Returns:
        The record. A row whose result was wrong has no time and `is_wrong`.

    Raises:
        UserError: An option is out of range, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.bench_train("smollm2-135m", tokens=4096, quick=True)
    """
    started = time.monotonic()
    if out is not None:
        refuse_existing(Path(out), overwrite)
    (sizes,) = parse_shapes([shape])
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}; found '{dtype}'.")
    if tokens < 1:
        raise UserError(f"--tokens must be at least 1; found {tokens}.")
    where = choose_device(device)
    repeats = QUICK if quick else REPEATS
    stopwatch = Stopwatch(where, repeats)
    limit = measure_limit(where, stopwatch)
    is_compiling = compiled and where.type == "cuda"
    runner = _Runner(stopwatch, make_inputs(sizes, tokens, DTYPES[dtype], where, seed), limit)
    for contender in contenders(is_compiling):
        runner.enter(contender)
    baseline = BASELINE + (COMPILED if is_compiling else EAGER)
    rows = runner.run(baseline)
    if on_row is not None:
        for row in rows:
            on_row(row)
    record = TrainSpeedRecord(
        model=sizes.name,
        d_model=sizes.d_model,
        d_ff=sizes.d_ff,
        num_tokens=tokens,
        dtype=dtype,
        sparsity=runner.sparsity,
        baseline=baseline,
        limit=limit,
        rows=rows,
        not_run=tuple(runner.not_run),
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


class _Entrant:
    """A contender that ran, and how far off it was."""

    def __init__(self, contender: Contender, step: Pass | GEMMs, errors: Errors) -> None:
        self.contender, self.step, self.errors = contender, step, errors
        self.peak_gib: float | None = None


class _Runner:
    """Checks contenders, times the right ones in turns, and checks them again."""

    def __init__(self, stopwatch: Stopwatch, inputs: Inputs, limit: SpeedLimit) -> None:
        self._stopwatch, self._inputs, self._limit = stopwatch, inputs, limit
        self._references: dict[tuple[object, bool], Reference] = {}
        self._bounds: dict[tuple[str, object], float] = {}
        self._entrants: list[_Entrant] = []
        self.not_run: list[NotRun] = []

    @property
    def sparsity(self) -> float:
        """Share of zeros in the x_1 of the ReGLU contenders."""
        return self._reference(contenders(False)[0]).sparsity

    def enter(self, contender: Contender) -> None:
        """Run a contender once and keep it, right or wrong."""
        try:
            step = self._step(contender)
            entrant = _Entrant(contender, step, self._errors(contender, step))
            entrant.peak_gib = _peak_gib(step, self._inputs.x.device)
        except Exception as error:  # one that fails must not cost the times of all others
            LOG.exception("%s failed", contender.name)
            reason = f"failed with {type(error).__name__}: {error}".splitlines()[0]
            name = f"{contender.name} ({contender.part})"
            self.not_run.append(NotRun(name, reason, is_failure=True))
            return
        self._entrants.append(entrant)

    def run(self, baseline: str) -> tuple[TrainSpeedRow, ...]:
        """Time what is right, and return a row for each contender."""
        rows = [self._row(entrant) for entrant in self._entrants]
        right = [i for i, row in enumerate(rows) if not row.is_wrong]
        times = self._stopwatch.time_in_turns([self._entrants[i].step for i in right])
        found = dict(zip(right, times, strict=True))
        for entrant in self._entrants:
            after = self._errors(entrant.contender, entrant.step)
            entrant.errors = entrant.errors.worst(after)
        rows = [self._row(entrant) for entrant in self._entrants]
        base = {row.part: found.get(i) for i, row in enumerate(rows) if row.contender == baseline}
        return tuple(
            row if row.is_wrong or i not in found else _timed(row, found[i], base.get(row.part))
            for i, row in enumerate(rows)
        )

    def _reference(self, contender: Contender) -> Reference:
        key = contender.activation, contender.is_penalized
        if key not in self._references:
            self._references[key] = Reference(self._inputs, *key)
        return self._references[key]

    def _step(self, contender: Contender) -> Pass | GEMMs:
        reference = self._reference(contender)
        if contender.is_gemms:
            dtype = self._inputs.x.dtype
            names = ("x1", "d_gate_pre", "d_up")
            return GEMMs(self._inputs, *(reference.elementwise[n].to(dtype) for n in names))
        is_ffn = contender.part == "ffn"
        return Pass(contender, self._inputs if is_ffn else reference.intermediates)

    def _errors(self, contender: Contender, step: Pass | GEMMs) -> Errors:
        reference = self._reference(contender)
        expected = reference.ffn if contender.part == "ffn" else reference.elementwise
        return Errors.of(step.results(), expected)

    def _bound(self, contender: Contender) -> float:
        """Return the error allowed: twice that of PyTorch's own eager operators, on these inputs."""
        plain = contender.plain()
        key = plain.part, plain.intermediate
        if key not in self._bounds:
            own = self._errors(plain, self._step(plain)).error
            self._bounds[key] = max(2 * own, ERROR_BOUND[self._inputs.x.dtype])
        return self._bounds[key]

    def _row(self, entrant: _Entrant) -> TrainSpeedRow:
        contender, errors, dtype = entrant.contender, entrant.errors, self._inputs.x.dtype
        num_entries = len(self._inputs.x) * len(self._inputs.up_proj)
        few = max(1.0, SMALL / num_entries) ** 0.5
        mb = 1e-6 * ELEMENTWISE_PASSES * num_entries * dtype.itemsize
        return TrainSpeedRow(
            part=contender.part,
            contender=contender.name,
            ms=None,
            ms_p10=None,
            ms_p90=None,
            over_baseline=None,
            over_baseline_p10=None,
            over_baseline_p90=None,
            peak_gib=entrant.peak_gib,
            error=errors.error,
            error_bound=self._bound(contender),
            l1_error=errors.l1,
            count_error=errors.count,
            l1_bound=L1_BOUND[dtype] * few,
            count_bound=COUNT_BOUND[contender.part],
            limit_ms=1e-3 * self._limit.us_per_mb * mb if contender.part == "elementwise" else None,
        )


def _timed(
    row: TrainSpeedRow, times: Sequence[float], baseline: Sequence[float] | None
) -> TrainSpeedRow:
    us = spread(times)
    row = replace(row, ms=1e-3 * us.median, ms_p10=1e-3 * us.p10, ms_p90=1e-3 * us.p90)
    if baseline is None:
        return row
    over = spread([mine / theirs - 1 for mine, theirs in zip(times, baseline, strict=True)])
    return replace(
        row,
        over_baseline=over.median,
        over_baseline_p10=over.p10,
        over_baseline_p90=over.p90,
    )


def _peak_gib(step: Pass | GEMMs, device: torch.device) -> float | None:
    """Return the most memory that one run needs beyond what was there before."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step.run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30
