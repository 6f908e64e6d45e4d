# SPDX-License-Identifier: Apache-2.0
"""Write text with a sparse model: once the likeliest, then two samples.

python examples/05_generate.py MODEL PROMPT
"""

import sys

import prosparse as ps


def main(model: str, prompt: str) -> None:
    network = ps.load(model)  # once, for all three texts
    tokenizer = ps.load_tokenizer(model)
    for temperature, seed in ((0.0, 0), (0.8, 1), (0.8, 2)):
        print(f"[temperature {temperature}, seed {seed}] {prompt}", end="")
        ps.generate(
            network,
            prompt,
            max_new_tokens=48,
            temperature=temperature,
            top_p=0.95,
            seed=seed,
            tokenizer=tokenizer,
            on_text=lambda piece: print(piece, end="", flush=True),
        )
        print()
    print("\nExpect the same texts each time. They come through the dense path of transformers;")
    print("the next example skips the zeros.")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
