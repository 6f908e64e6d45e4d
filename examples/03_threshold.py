# SPDX-License-Identifier: Apache-2.0
"""Step 3: shift the activation threshold up as far as a quality budget allows (FATReLU).

    python examples/03_threshold.py RELU_MODEL HELD_OUT_TEXT OUT

RELU_MODEL is what 02_train.py wrote; OUT gets the checkpoint with the threshold in its config.
"""

import sys

import prosparse as ps


def main(model: str, text: str, out: str) -> None:
    record = ps.threshold(
        model,
        {"text": text},
        out=out,
        candidates=(0.001, 0.01, 0.1, 0.3),
        max_perplexity_increase=0.01,
        tokens=2048,
        context_length=128,
        overwrite=True,
        progress=False,
    )
    for row in record.candidates:
        verdict = "within the budget" if row.within_budget else "over the budget"
        print(
            f"t = {row.threshold:<6g} sparsity {row.sparsity:7.2%}   perplexity "
            f"{row.perplexity_increase:+8.2%} ± {row.perplexity_increase_stderr:.2%}   {verdict}"
        )
    print(f"\nChosen: {record.chosen:g} (0 means that the model keeps plain ReLU).")
    print("Expect sparsity to rise with t and perplexity to stay flat, then to climb steeply.")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
