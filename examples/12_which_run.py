# SPDX-License-Identifier: Apache-2.0
"""Which of these runs is better? One page that holds them against each other.

    python examples/12_which_run.py OUT RUN RUN [RUN ...]

A RUN is the output folder of sparsify, train, threshold or measure; the first is what the others
are held against. Open OUT/report.html.
"""

import json
import sys
from pathlib import Path

import prosparse as ps


def main(out: str, *runs: str) -> None:
    page = ps.report(*runs, out=out, overwrite=True)
    told = json.loads(Path(out, "report.json").read_text(encoding="utf-8"))
    print(told["headline"])
    for section in told["sections"]:
        for sentence in section.get("items", []):
            print(f"- {sentence}")
    print(f"\nThe whole comparison is {page}. Where runs were not measured alike it says so, and")
    print("compares no perplexities.")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
