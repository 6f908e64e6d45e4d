# SPDX-License-Identifier: Apache-2.0
"""Hold a sparse model's FFNs in 4 bits, but for what a text shows not to bear it.

python examples/07_quantize.py MODEL TEXT
"""

import sys
from collections import Counter

import prosparse as ps


def main(model: str, text: str) -> None:
    network = ps.load(model)
    tokenizer = ps.load_tokenizer(model)
    ids = tokenizer(text, return_tensors="pt").input_ids
    plan = ps.quantize(
        network, ids, on_projection=lambda done, total: print(f"\r{done} of {total}", end="")
    )
    held = Counter("as it was" if bits is None else f"in {bits} bits" for bits in plan.values())
    print("\nFFN projections:", ", ".join(f"{count} held {how}" for how, count in held.items()))
    with ps.accelerate(network):
        print(ps.generate(network, text[:40], max_new_tokens=32, tokenizer=tokenizer))
    print("\nExpect most projections in 4 bits. The quantized model lives in memory only.")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
