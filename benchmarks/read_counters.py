# SPDX-License-Identifier: Apache-2.0
"""Say in a table what the counters of `profile_operators.py` show: what each kernel waits for.

python benchmarks/read_counters.py counters.csv FOLDER   # writes FOLDER/counters.csv and FOLDER/report.md
"""

from __future__ import annotations

import csv
import sys
from itertools import product
from pathlib import Path

from profile_operators import SHAPES

KERNELS = (
    "step (2)",
    "step (3)",
    "FFN: gate and up",
    "FFN: down",
    "screened: up",
    "screened: down",
)
STALLED = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
WAITS = {
    "memory": ("long_scoreboard", "lg_throttle"),
    "other warps": ("barrier", "membar"),
    "instructions": ("no_instruction", "imc_miss", "branch_resolving"),
    "shared memory": ("short_scoreboard", "mio_throttle"),
}
COLUMNS = {
    "us": ("gpu__time_duration.sum", 1e-3),
    "memory's peak": ("gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", 1),
    "warps resident": ("sm__warps_active.avg.pct_of_peak_sustained_active", 1),
    "issue slots": ("smsp__issue_active.avg.per_cycle_active", 100),
}


def number(row: dict[str, str], metric: str) -> float:
    """Return a metric of a kernel; ncu writes thousands with commas."""
    return float(row[metric].replace(",", ""))


def cells(row: dict[str, str]) -> list[str]:
    """Return the cells of one kernel: time and shares, then what its warps wait for."""
    values = [number(row, metric) * scale for metric, scale in COLUMNS.values()]
    stalls = {
        name.split("stalled_")[1].removesuffix("_per_issue_active.ratio"): number(row, name)
        for name in row
        if name.startswith(STALLED.split("{")[0])
    }
    waits = [sum(stalls[name] for name in names) for names in WAITS.values()]
    shares = [100 * wait / sum(stalls.values()) for wait in waits]
    return [f"{values[0]:.2f}", *(f"{value:.0f} %" for value in (*values[1:], *shares))]


def main(source: Path, folder: Path) -> None:
    """Write the metrics used, and the table."""
    lines = source.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith('"ID"'))
    rows = list(csv.DictReader(lines[first:]))[1:]  # the first one holds units
    names = list(product(SHAPES, KERNELS))
    assert len(rows) == len(names), f"{len(rows)} kernels, {len(names)} expected"
    head = ["shape", "kernel", *COLUMNS, *(f"waits: {name}" for name in WAITS)]
    table = [head, [":---", ":---", *["---:"] * (len(head) - 2)]]
    table += [[*name, *cells(row)] for name, row in zip(names, rows, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    kept = [
        "Kernel Name",
        "launch__grid_size",
        "launch__block_size",
        "launch__registers_per_thread",
    ]
    kept += [metric for metric, _ in COLUMNS.values()] + [k for k in rows[0] if "stalled" in k]
    with (folder / "counters.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = "\n".join("| " + " | ".join(line) + " |" for line in table)
    device = f"{rows[0]['device__attribute_display_name']}, compute {rows[0]['CC']}"
    (folder / "report.md").write_text(
        f"# What each kernel waits for\n\n{device}; clocks as they are; caches emptied before every "
        f"kernel, each alone.\n\n{text}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
