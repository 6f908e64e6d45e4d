# SPDX-License-Identifier: Apache-2.0
"""Can a small network say which neurons will fire, what does that cost, and does PowerInfer run it?

    python examples/15_predictors.py RELU_LLAMA TEXT OUT

Fits a predictor for every layer, measures it on text, lets the model decode by it, and writes the
file that PowerInfer runs. A real fit takes hundreds of thousands of rows and more epochs.
"""

import sys
from pathlib import Path

import prosparse as ps


def main(model: str, text: str, out: str) -> None:
    folder = Path(out)
    fit = ps.fit_predictors(
        model, {"text": text}, out=folder / "predictors", rows=2048, rank=32, cut=0.0, epochs=3,
        context_length=128, overwrite=True, progress=False,
    )  # fmt: skip
    print(f"SVD starts in {fit.start_seconds:.1f} s; then trained:")
    for layer, found in enumerate(fit.layers):
        print(
            f"layer {layer:3}: {found.chosen.recall:.1%} of the active neurons found, "
            f"{found.chosen.predicted_sparsity:.1%} predicted inactive of {found.sparsity:.1%}"
        )
    judged = ps.evaluate_predictors(
        model,
        folder / "predictors",
        {"text": text},
        tokens=1024,
        context_length=128,
        progress=False,
    )
    print(f"Perplexity by predictors: {judged.perplexity_increase:+.2%}")
    network, tokenizer = ps.load(model), ps.load_tokenizer(model)
    options = {"max_new_tokens": 8, "tokenizer": tokenizer}
    print(f"exact:     {ps.generate(network, 'def add', **options)!r}")
    with ps.accelerate(
        network, backend="predicted", predictors=folder / "predictors"
    ) as accelerated:
        print(f"predicted: {ps.generate(network, 'def add', **options)!r}")
        print(accelerated)
    exported = ps.export(
        model, to="powerinfer", predictors=folder / "predictors", out=folder / "powerinfer",
        overwrite=True,
    )  # fmt: skip
    print(f"For PowerInfer: {exported.file}, {exported.num_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
