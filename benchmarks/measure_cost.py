# SPDX-License-Identifier: Apache-2.0
"""What counting costs beside a plain forward pass over the same text: sparsity alone, and every distribution.

python benchmarks/measure_cost.py MODEL TEXT FOLDER [--tokens 100000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import prosparse as ps
from prosparse.data.sources import Source
from prosparse.measurement.activity import activity_meters
from prosparse.measurement.perplexity import (
    Windows,
    measure_windows,
    window_losses,
    windows_in_pass,
)
from prosparse.measurement.run import read_windows
from prosparse.model.device import autocast, choose_device, forward_precision, provenance
from prosparse.records.codec import encode
from prosparse.records.files import whole_folder

CONTEXT_LENGTH = 1024


@torch.no_grad()
def plain(model, windows: Windows, precision: str) -> None:
    """Run the passes and their losses, and count nothing."""
    with autocast(precision, model.device):
        for ids_BS in windows.ids_WS.split(windows_in_pass(model, CONTEXT_LENGTH)):
            window_losses(model, ids_BS.to(model.device)).cpu()


def measured(model, windows: Windows, precision: str, *, detail: bool) -> None:
    """Run the passes as `measure` does, and make the record of one data set."""
    meter = activity_meters(model, [windows])[0] if detail else None
    result = measure_windows(model, windows, precision=precision, activity=meter)
    result.summary(meter.summary() if meter else None)


def seconds(function: Callable[[], object]) -> float:
    """Return the time of a call, work on a GPU included."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    started = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Time the three in turn, and write medians and shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = choose_device("auto")
    precision = forward_precision("auto", device)
    source = {"text": Source(path=options.text)}
    tokenizer = ps.load_tokenizer(options.model)
    (windows,) = read_windows(source, tokenizer, CONTEXT_LENGTH, options.tokens)
    model = ps.load(options.model, device=device).eval()
    ways = {
        "forward pass and losses": lambda: plain(model, windows, precision),
        "measure": lambda: measured(model, windows, precision, detail=False),
        "measure --detail": lambda: measured(model, windows, precision, detail=True),
    }
    for way in ways.values():
        way()  # warms up: kernels are compiled, memory is taken
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds(way))
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["forward pass and losses"]
    num_tokens = windows.ids_WS.numel()
    rows = [
        f"| {name} | {median:.2f} | {num_tokens / median:,.0f} | {median / base - 1:+.1%} |"
        for name, median in medians.items()
    ]
    table = "\n".join(
        [
            "| what | seconds | tokens/s | over the forward pass |",
            "| :--- | ---: | ---: | ---: |",
            *rows,
        ]
    )
    made = provenance(device)
    with whole_folder(options.folder) as folder:
        record = {
            "tokens": num_tokens,
            "precision": precision,
            "seconds": times,
            "provenance": encode(made),
        }
        (folder / "times.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(
            f"# What measuring costs\n\n{num_tokens:,} tokens of {CONTEXT_LENGTH}, {precision}, "
            f"{made.device}; medians of {options.rounds}.\n\n{table}\n",
            encoding="utf-8",
        )
    print(table)  # noqa: T201


if __name__ == "__main__":
    main()
