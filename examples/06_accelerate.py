# SPDX-License-Identifier: Apache-2.0
"""Let a sparse model skip its zeros while it writes, and look at what that changes: the time only.

python examples/06_accelerate.py MODEL PROMPT
"""

import sys
import time

import prosparse as ps


def main(model: str, prompt: str) -> None:
    network = ps.load(model)
    tokenizer = ps.load_tokenizer(model)

    def write(label: str) -> str:
        began = time.perf_counter()
        text = ps.generate(network, prompt, max_new_tokens=32, tokenizer=tokenizer)
        print(f"[{label}: {time.perf_counter() - began:.2f} s] {prompt}{text}")
        return text

    dense = write("dense")
    with ps.accelerate(network) as accelerated:
        sparse = write("sparse")
        print(accelerated)
    print("the same text" if sparse == dense else "another text: rounding decided a close call")
    print("\nExpect the same text twice. On an NVIDIA GPU the sparse one is faster for models of a")
    print("billion parameters and more; on a CPU plain PyTorch stands in, correct and slower.")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
