# SPDX-License-Identifier: Apache-2.0
"""Write a sparse model in 4 bits, but for what a text shows not to bear it, and run it.

python examples/07_quantize.py MODEL NAME=TEXT OUT
"""

import sys

import prosparse as ps


def main(model: str, data: str, out: str) -> None:
    name, _, path = data.partition("=")
    record = ps.quantize(
        model, {name: path}, bits=4, out=out, tokens=2048, deciding_tokens=512, context_length=256
    )
    for bits in (4, 8, None):
        held = record.held_in(bits)
        print(f"{len(held)} layers", "as they were" if bits is None else f"in {bits} bits")
    shrunk = record.bytes_after / record.bytes_before
    print(f"Weights: {shrunk:.0%} of what they were, perplexity {record.perplexity_increase:+.2%}")
    network = ps.load(out)
    with ps.accelerate(network):
        print(ps.generate(network, "The ", max_new_tokens=32))
    print("\nExpect most layers in 4 bits; massive activations keep a few down projections higher.")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
