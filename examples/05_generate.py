# SPDX-License-Identifier: Apache-2.0
"""Write text with a sparse model, and count the zeros on the text that it wrote.

    python examples/05_generate.py MODEL PROMPT
"""

import sys
import tempfile
from pathlib import Path

import prosparse as ps


def main(model: str, prompt: str) -> None:
    network = ps.load(model)
    tokenizer = ps.load_tokenizer(model)
    print(prompt, end="")
    text = ps.generate(
        network,
        prompt,
        max_new_tokens=48,
        tokenizer=tokenizer,
        on_text=lambda piece: print(piece, end="", flush=True),
    )
    print()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.txt"
        path.write_text(prompt + text, encoding="utf-8")
        record = ps.measure(
            network,
            {"written": path},
            tokens=16,
            context_length=16,
            tokenizer=tokenizer,
            progress=False,
        )
    print(f"\nSparsity on the first 16 tokens of this text: {record.sparsity:.2%}")
    print("The passes are the dense ones of transformers: zeros are counted here, not yet skipped,")
    print("so expect no speed-up over the dense model.")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
