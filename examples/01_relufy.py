# SPDX-License-Identifier: Apache-2.0
"""Step 1: put ReLU where Swish or GELU was, and see what that alone does.

    python examples/01_relufy.py MODEL TEXT OUT

MODEL is a folder, a GGUF file or a hub id; TEXT is held-out text (.jsonl, .txt, .parquet); OUT gets
the ReLU checkpoint.
"""

import sys

import prosparse as ps


def main(model: str, text: str, out: str) -> None:
    record = ps.relufy(model, out=out, overwrite=True)
    print(
        f"{record.replaced.name} became {record.activation.name} in {record.num_layers} FFNs "
        f"of {record.d_ff} neurons; no weight was touched."
    )
    for name, which in (("dense", model), ("ReLU, untrained", out)):
        measured = ps.measure(
            which, {"text": text}, tokens=2048, context_length=128, progress=False
        )
        perplexity = measured.data[0].perplexity
        print(f"{name:16} sparsity {measured.sparsity:7.2%}   perplexity {perplexity:10.2f}")
    print("\nExpect almost no zeros before, about half or more after, and a perplexity that is far")
    print(
        "worse on a trained model: its weights were made for the other function. Training mends it."
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
