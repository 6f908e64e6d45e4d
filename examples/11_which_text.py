# SPDX-License-Identifier: Apache-2.0
"""Which text fires a neuron? The strongest places, with what the neuron writes.

    python examples/11_which_text.py MODEL LAYER NEURON|rarest NAME=TEXT [NAME=TEXT ...]

With `rarest` in place of a number, the neurons of the layer that fire on the fewest tokens.
"""

import sys

import prosparse as ps


def main(model: str, layer: str, neuron: str, *texts: str) -> None:
    record = ps.inspect(
        model,
        dict(text.split("=", 1) for text in texts),
        layer=int(layer),
        neurons=[] if neuron == "rarest" else [int(neuron)],
        top=5, tokens=2048, context_length=128, progress=False,
    )  # fmt: skip
    for found in record.neurons:
        often = ", ".join(f"{part.frequency:.2%} of {part.data}" for part in found.data)
        print(f"layer {found.layer}, neuron {found.neuron} fires on {often}")
        for context in found.contexts:
            before = "".join(context.tokens[: context.peak]).replace("\n", " ")
            peak = context.tokens[context.peak].strip()
            print(f"  {context.values[context.peak]:+9.4f}  ...{before[-50:]} [{peak}]")
        writes = ", ".join(repr(written.token) for written in found.promotes[:5])
        print(f"  writes, where it is positive: {writes}")
    print("\nRead the text together with how often the neuron fires: one that fires on half of all")
    print("tokens also has strongest places, and they mean little.")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
