# SPDX-License-Identifier: Apache-2.0
"""The report on whole training steps; importing this makes the page know it."""

from __future__ import annotations

from typing import Any

from prosparse.records.training_step import TrainStepRecord
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import compact_count, duration, percent
from prosparse.reporting.sections import Section, sections
from prosparse.reporting.summary import Tile, headline, tiles


@headline.register
def _(record: TrainStepRecord) -> str:
    devices = f"{record.num_devices} device{'s' if record.num_devices > 1 else ''}"
    used = "" if record.mfu is None else f", {percent(record.mfu, 1)} MFU"
    memory = "" if record.peak_gib is None else f", {record.peak_gib:.1f} GiB at most"
    return (
        f"{record.model} trains {record.tokens_per_second:,.0f} tokens/s on each of {devices}"
        f"{used}{memory}."
    )


@tiles.register
def _(record: TrainStepRecord) -> list[Tile]:
    found = [(f"{record.tokens_per_second:,.0f}", "tokens/s of each device")]
    if record.mfu is not None:
        found.append((percent(record.mfu, 1), "MFU"))
    if record.peak_gib is not None:
        found.append((f"{record.peak_gib:.1f} GiB", "peak memory of a device"))
    return found


@sections.register
def _(record: TrainStepRecord, log: list[dict[str, Any]]) -> list[Section]:
    rows = [(f"{step}", f"{s:.4f}") for step, s in enumerate(record.step_seconds, start=1)]
    return [Section("Timed steps", grid=Grid(("step", "seconds"), tuple(rows)))]


def train_step_facts(record: TrainStepRecord) -> list[tuple[str, str]]:
    """Return what belongs to such a record alone, as names and values."""
    batch = (
        f"{record.micro_batch_size} x {record.gradient_accumulation} of {record.context_length:,}"
    )
    return [
        ("parameters", f"{compact_count(record.num_parameters)}, {record.num_layers} layers"),
        ("devices", f"{record.num_devices}, sharding {record.sharding}"),
        ("samples of a step on each", f"{batch} tokens"),
        ("gradient checkpointing", "on" if record.gradient_checkpointing else "off"),
        ("torch.compile", "on" if record.compiled else "off"),
        ("precision", record.precision),
        ("FLOPs of a token", f"{record.flops_per_token:.4g}"),
        ("peak", "not known" if record.peak_flops is None else f"{record.peak_flops:.4g} FLOP/s"),
        ("loss", f"{record.first_loss:.3f} to {record.last_loss:.3f}"),
        ("zeros in x_1", percent(record.sparsity, 1)),
        ("time", duration(record.seconds)),
    ]
