# SPDX-License-Identifier: Apache-2.0
"""A speed record in one sentence, a few figures, its facts and how to read it."""

from __future__ import annotations

from prosparse.records.decode_speed import DecodeSpeedRecord
from prosparse.records.speed import OpsRow, OpsSpeedRecord
from prosparse.reporting.numerals import duration, listing, percent
from prosparse.reporting.summary import Tile, headline, tiles

NAMED_SPARSITY = 0.893  # of ProSparse-7B: the headline is about the sparsity next to it


@headline.register
def _(record: OpsSpeedRecord) -> str:
    row = _named_row(record)
    wrong = [r for r in record.rows if r.is_wrong]
    warning = f" {len(wrong)} results were WRONG and have no time." if wrong else ""
    if row is None:
        return f"No sparse FFN was timed.{warning}"
    versus = [f"{row.speedup:.2f}x over torch's own operators"] if row.speedup else []
    if row.speedup_compiled:
        versus.append(f"{row.speedup_compiled:.2f}x over torch.compile")
    return (
        f"At {row.shape} and {percent(row.sparsity, 1)} sparsity the fastest sparse FFN "
        f"({row.contender}) takes {row.us:.1f} us, {percent(row.limit_share or 0.0, 0)} of what the "
        f"hardware allows one launch: {listing(versus) or 'no dense baseline was timed'}.{warning}"
    )


@tiles.register
def _(record: OpsSpeedRecord) -> list[Tile]:
    found = [(f"{record.limit.launch_us:.2f} us", "least time of one launch")]
    if record.limit.us_per_mb > 0:  # a line through noise may fall
        found.append((f"{1e3 / record.limit.us_per_mb:.0f} GB/s", "read bandwidth beyond it"))
    row = _named_row(record)
    if row is not None and row.us is not None:
        found.append((f"{row.us:.1f} us", f"whole FFN, {row.shape}"))
        if row.speedup_compiled:
            found.append((f"{row.speedup_compiled:.2f}x", "over the compiled dense FFN"))
    return found


@headline.register
def _(record: DecodeSpeedRecord) -> str:
    dense, sparse = record.fastest_dense, record.fastest_sparse
    share = record.ffn_mb / record.dense_mb
    bytes_text = (
        f"{percent(share, 0)} of the bytes that a dense step reads are FFN, and "
        f"{percent(record.sparsity, 1)} of the neurons were inactive"
    )
    wrong = [row.contender for row in record.rows if row.is_wrong]
    warning = f" WRONG, and so without a time: {listing(wrong)}." if wrong else ""
    if dense is None or sparse is None:
        missing = "dense" if dense is None else "sparse"
        return f"{bytes_text[0].upper()}{bytes_text[1:]}; no {missing} decode was timed.{warning}"
    ceiling = record.dense_mb / sparse.mb
    return (
        f"Sparsity buys {sparse.speedup or 0.0:.2f}x on this machine: "
        f"{sparse.tokens_per_second:.1f} tokens/s ({sparse.contender}) against "
        f"{dense.tokens_per_second:.1f} of the fastest dense decode ({dense.contender}). "
        f"{bytes_text}, so a token reads {_gb(sparse.mb)} instead of {_gb(record.dense_mb)}: "
        f"at most {ceiling:.2f}x if time followed bytes.{_time_ceiling(record)}{warning}"
    )


@tiles.register
def _(record: DecodeSpeedRecord) -> list[Tile]:
    dense, sparse = record.fastest_dense, record.fastest_sparse
    found = [(percent(record.sparsity, 1), "of FFN neurons inactive, decoded tokens")]
    if sparse is not None:
        found.append((f"{sparse.tokens_per_second:.1f}", f"tokens/s, {sparse.contender}"))
    if dense is not None:
        found.append((f"{dense.tokens_per_second:.1f}", f"tokens/s, {dense.contender}"))
    if sparse is not None and sparse.speedup:
        found.append((f"{sparse.speedup:.2f}x", "over the fastest dense decode"))
    return found


def speed_facts(record: OpsSpeedRecord | DecodeSpeedRecord) -> list[tuple[str, str]]:
    """Return what belongs to a speed record alone, as names and values."""
    facts = [("dtype", record.dtype)]
    if isinstance(record, DecodeSpeedRecord):
        weights = "random" if record.is_random else "of the checkpoint"
        if record.weight_bits is not None:
            weights += f", those of the FFNs in {record.weight_bits} bits"
        facts += [
            ("weights", weights),
            ("size", f"{record.num_layers} layers, {record.d_model:,} -> {record.d_ff:,}"),
            ("decoded", f"{record.new_tokens} tokens after a prompt of {record.prompt_tokens}"),
        ]
    facts.append(("repeats", f"{record.num_repeats}, median"))
    if record.clocks:
        clocks = ", ".join(f"{name} {value}" for name, value in record.clocks.items())
        facts.append(("read after the last measurement", clocks))
    return [*facts, ("time", duration(record.seconds))]


def speed_notes(record: OpsSpeedRecord | DecodeSpeedRecord) -> list[str]:
    """Return what a reader must know of the numbers on the page."""
    limit = (
        "The limit is the measured time of one launch that only reads as many bytes of weights. A "
        "step made of several launches cannot reach it."
    )
    if isinstance(record, OpsSpeedRecord):
        return [
            record.method,
            "Every result was compared with float32 on the same inputs, its memory filled with NaN "
            "before, on all copies, before and after timing. A wrong one has no time.",
            limit,
            "MB counts weights only, each needed row once. “x dense” compares with torch's own "
            "operators for the same step, “x compiled” with the whole FFN under torch.compile "
            "(max-autotune), each as a node of the same kind of graph. A compiled FFN is the "
            "honest baseline.",
        ]
    return [
        "Every contender's greedy tokens were judged by the dense model before it got a time. Where "
        "its text parts from the dense one, every token is judged on its own text: the margin is by "
        "how much the dense logits prefer another token at most. A tie within rounding is right, "
        "anything else has no time.",
        "Every sparse decode was held against the dense one on the dense model's own text, token by "
        "token: its logits, and for the same input of each FFN the neurons that are zero. A neuron "
        "that differs is judged by its sum in float64; what rounding cannot explain has no time.",
        "MB/token counts weights that a token must read, at the measured sparsity; the key-value "
        "cache is not in it.",
        limit,
    ]


def _named_row(record: OpsSpeedRecord) -> OpsRow | None:
    """Return the fastest sparse FFN at the sparsity next to the named one, first shape, fewest tokens.

    One with quantized weights is another FFN than the dense ones it would be compared with.
    """
    rows = [
        row
        for row in record.rows
        if row.step == "ffn" and not row.is_dense and row.weight_bits is None and row.us
    ]
    if not rows:
        return None
    rows = [row for row in rows if row.shape == rows[0].shape]
    fewest = min(row.num_tokens for row in rows)
    nearest = min(abs(row.sparsity - NAMED_SPARSITY) for row in rows)
    return min(
        (
            row
            for row in rows
            if row.num_tokens == fewest and abs(row.sparsity - NAMED_SPARSITY) <= nearest + 1e-6
        ),
        key=lambda row: row.us or 0.0,
        default=None,
    )


def _time_ceiling(record: DecodeSpeedRecord) -> str:
    """Return what an FFN that cost nothing would give, where the step was taken apart."""
    apart = [row for row in record.rows if row.is_dense and row.ffn_ms is not None]
    if not apart:
        return ""
    row = min(apart, key=lambda row: row.ms or 0.0)
    whole, ffn = row.ms or 0.0, row.ffn_ms or 0.0
    return (
        f" In time, the FFN is {percent(ffn / whole, 0)} of a dense step and attention "
        f"{percent((row.attention_ms or 0.0) / whole, 0)}: an FFN that cost nothing would give "
        f"{whole / (whole - ffn):.2f}x."
    )


def _gb(mb: float) -> str:
    return f"{mb / 1e3:.2f} GB" if mb >= 100 else f"{mb:.3g} MB"
