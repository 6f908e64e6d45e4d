# SPDX-License-Identifier: Apache-2.0
"""Which threshold does my budget allow, layer by layer, and does it hold on other text?

    python examples/13_thresholds.py RELU_MODEL TEXT OUT

Three methods look for the edge of a budget of one percent of perplexity: one threshold for all
layers, equal relative output error (CETT), and the cheapest zeros by what layers cost. OUT gets the
sparsest; its config has a threshold for each layer, which transformers loads after `import prosparse`.
"""

import sys

import prosparse as ps


def main(model: str, text: str, out: str) -> None:
    record = ps.threshold(
        model, {"text": text}, out=out, method="all", max_perplexity_increase=0.01,
        tokens=2048, context_length=128, overwrite=True, progress=False,
    )  # fmt: skip
    for row in record.check[1:]:
        chosen = next(
            c for c in record.candidates if (c.method, c.threshold) == (row.method, row.threshold)
        )
        print(
            f"{row.method:>9}: sparsity {chosen.sparsity:.2%} at {chosen.perplexity_increase:+.2%}; on "
            f"other text {row.sparsity:.2%} at {row.perplexity_increase:+.2%} "
            f"± {row.perplexity_increase_stderr:.2%}"
        )
    for layer, t in enumerate(record.chosen_candidate.layer_thresholds):
        print(f"layer {layer:3}  t = {t:.4f}")
    for sentence in record.notes:
        print(sentence)
    print(
        f"\nChosen: {record.method if record.chosen else 'plain ReLU'}. What layers cost is measured"
    )
    print("with noise: give tens of thousands of tokens, and trust the check before the choice.")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
