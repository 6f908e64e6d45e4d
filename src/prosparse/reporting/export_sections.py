# SPDX-License-Identifier: Apache-2.0
"""The page on an export; importing this makes `headline`, `tiles` and `sections` know it."""

from __future__ import annotations

from typing import Any

from prosparse.records.export import ExportRecord
from prosparse.reporting.numerals import compact_number
from prosparse.reporting.section import Section
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import Tile, headline, tiles

ENGINES = {"powerinfer": "PowerInfer", "gguf": "llama.cpp"}
FOR_OURS = "prosparse alone"


@headline.register
def _(record: ExportRecord) -> str:
    engine = ENGINES[record.to]
    if record.to == "gguf" and record.architecture != "llama":
        engine = FOR_OURS
    found = f"{record.file} is for {engine}: {_size(record)}, FFN in {record.type}."
    if record.unshifted_from is not None:
        return f"{found} Its thresholds were left out: it is the model before they were set."
    return found


@tiles.register
def _(record: ExportRecord) -> list[Tile]:
    found = [(_size(record), f"in {record.type}")]
    if record.sparse_threshold is not None:
        found.append((compact_number(record.sparse_threshold), "threshold of the logits"))
    return found


@sections.register
def _(record: ExportRecord, log: list[dict[str, Any]]) -> list[Section]:
    return []


def export_facts(record: ExportRecord) -> list[tuple[str, str]]:
    """Return what is in the file."""
    facts = [("file", record.file), ("architecture", record.architecture)]
    if record.predictors is not None:
        facts.append(("predictors", record.predictors))
    if record.num_counted_tokens:
        facts.append(("neurons counted on", f"{record.num_counted_tokens:,} tokens"))
    return facts


def _size(record: ExportRecord) -> str:
    return f"{record.num_bytes / 1e6:,.1f} MB"
