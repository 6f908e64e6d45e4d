# SPDX-License-Identifier: Apache-2.0
"""How sparse is this model already? Any activation function; nothing is trained or changed.

    python examples/10_how_sparse.py MODEL NAME=TEXT [NAME=TEXT ...]

Neurons that add next to nothing to a layer's output are left out, as many as cost one percent of
perplexity (CETT-PPL-1%), and what is left is looked at.
"""

import sys

import prosparse as ps


def main(model: str, *texts: str) -> None:
    data = dict(text.split("=", 1) for text in texts)
    record = ps.measure(
        model, data, metric="cett-ppl", max_perplexity_increase=0.01, detail=True,
        tokens=2048, context_length=128, progress=False,
    )  # fmt: skip
    point = record.metric.point
    print(
        f"{model} ({record.activation.name}): {point.sparsity:.1%} of its FFN activations can be left "
        f"out at {point.perplexity_increase:+.2%} ± {point.perplexity_increase_stderr:.2%} perplexity"
    )
    print(f"CETT {point.setting:.3f}, the edge of the budget: {record.metric.is_met}")
    found = record.activity
    for layer, shares in enumerate(found.span_union):
        together = ", ".join(
            f"{size}: {share:.0%}" for size, share in zip(found.span_sizes, shares, strict=True)
        )
        print(
            f"layer {layer:3}  of {found.d_ff} neurons {found.dead[layer]} dead, "
            f"{found.always_on[layer]} always on; needed by k tokens together: {together}"
        )
    print(
        "\nThe error matters as much as the increase: with few windows a budget of one percent is"
    )
    print("noise. Give tens of thousands of tokens before you believe it, or call a neuron dead.")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
