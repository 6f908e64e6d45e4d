# SPDX-License-Identifier: Apache-2.0
"""Measure any model: sparsity by data set and by layer, and perplexity with its standard error.

    python examples/04_measure.py MODEL NAME=TEXT [NAME=TEXT ...]

MODEL is any checkpoint of this line, or a dense one. Give several texts to see them differ.
"""

import sys

import prosparse as ps


def main(model: str, *texts: str) -> None:
    data = dict(text.split("=", 1) for text in texts)
    record = ps.measure(model, data, tokens=2048, context_length=128, progress=False)
    param = "" if record.activation.param is None else f" ({record.activation.param:g})"
    print(f"{model}: {record.activation.name}{param}, forward passes in {record.dtype}")
    for part in record.data:
        print(
            f"{part.data:12} sparsity {part.sparsity:7.2%}   "
            f"perplexity {part.perplexity:.2f} ± {part.perplexity_stderr:.2f}   "
            f"on {part.num_tokens:,} tokens in windows of {record.context_length}"
        )
    for layer, sparsity in enumerate(record.layer_sparsity):
        print(f"layer {layer:3}    {sparsity:7.2%}")
    print(f"\nMean over layers: {record.sparsity:.2%}. Expect layers and texts to differ; a figure")
    print("without its data, token count and window length says little.")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
