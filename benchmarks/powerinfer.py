# SPDX-License-Identifier: Apache-2.0
"""Does the real PowerInfer answer as we do, and how fast is it beside its own dense run?

python benchmarks/powerinfer.py MODEL PREDICTORS TEXT FOLDER --engine POWERINFER_SOURCE [--tokens 128]

POWERINFER_SOURCE is a clone of github.com/SJTU-IPADS/PowerInfer, built there:
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target main perplexity
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional

import prosparse as ps
from prosparse.data.documents import documents
from prosparse.data.sources import Source
from prosparse.exporting.llama import add_sizes, check_llama, llama_tensors
from prosparse.exporting.tensors import new_writer, write_gguf
from prosparse.exporting.vocabulary import add_vocabulary
from prosparse.model.device import provenance
from prosparse.model.ffn import ffns
from prosparse.predictors.files import read_predictors
from prosparse.predictors.skipping import skipping
from prosparse.records.codec import encode
from prosparse.records.files import whole_folder

CONTEXT = 512
CHUNKS = 8
ROUNDS = 3
EVERYTHING = "-1e30"  # below every logit
PROMPT = "The history of the city begins with a small village at the mouth of the river,"
SPEED = re.compile(
    r"llama_print_timings:\s+eval time =\s+[\d.]+ ms /\s+\d+ runs\s+\(\s+([\d.]+) ms"
)


@dataclass(frozen=True)
class Way:
    """One way to run the model."""

    name: str
    text: str | None
    perplexity: float | None
    ms: float | None
    """Median milliseconds for a token."""


def digitless(path: str, tokenizer, num_tokens: int) -> str:
    """Return text that the engine cuts into our tokens: without digits, in ASCII."""
    pieces, count = [], 0
    for document in documents(Source(path=path), "text", tokenizer):
        text = " ".join(re.sub(r"[^ -/:-~]|\d", "", document.text).split())
        pieces.append(text)
        count += len(tokenizer(text)["input_ids"])
        if count > num_tokens:
            return " ".join(pieces)
    raise SystemExit(f"{path} has only {count} tokens")


@torch.no_grad()
def our_perplexity(model, ids: torch.Tensor) -> float:
    """Return perplexity as the engine counts it: of the second half of each window."""
    losses = []
    for window in ids.split(CONTEXT):
        logits = model(window[None], use_cache=False).logits[0]
        half = slice(CONTEXT // 2, CONTEXT - 1)
        losses.append(functional.cross_entropy(logits[half].float(), window[CONTEXT // 2 + 1 :]))
    return math.exp(float(torch.stack(losses).mean()))


def run(
    binary: Path, file: Path, arguments: list[str], threshold: str | None, threads: int
) -> tuple[str, str]:
    """Return what the engine wrote to stdout and stderr."""
    env = dict(os.environ)
    if threshold is not None:
        env["LLAMA_SPARSE_PRED_THRESHOLD"] = threshold
    command = [str(binary), "-m", str(file), "-t", str(threads), *arguments]
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{err[-2000:]}")
    return out, err


def engine(name: str, source: Path, file: Path, text: Path, tokens: int, threshold=None) -> Way:
    """Run the engine: greedy text, time of a token, perplexity.

    Text and perplexity are of one thread: several add their parts of a sparse FFN's output into one vector
    without a lock (ggml_compute_forward_mul_mat_axpy of ggml.c), and some are lost.
    """
    greedy = ["-p", PROMPT, "-n", str(tokens), "--temp", "0", "--repeat-penalty", "1.0",
              "--ignore-eos", "-c", str(CONTEXT)]  # fmt: skip
    times = []
    for _ in range(ROUNDS):
        _, err = run(source / "build/bin/main", file, greedy, threshold, torch.get_num_threads())
        times.append(float(SPEED.search(err)[1]))
    out, _ = run(source / "build/bin/main", file, greedy, threshold, 1)
    arguments = ["-f", str(text), "-c", str(CONTEXT), "-b", str(CONTEXT), "--chunks", str(CHUNKS)]
    measured, _ = run(source / "build/bin/perplexity", file, arguments, threshold, 1)
    found = re.findall(r"\[\d+\]([\d.]+|nan)", measured)
    return Way(name, out.strip(), float(found[-1]), statistics.median(times))


def write_dense(model, tokenizer, path: Path) -> None:
    """Write the same weights as a dense llama, whose text means nothing: only its time counts."""
    config = check_llama(model)
    writer = new_writer(path, "llama")
    add_sizes(writer, config, "dense", "f16")
    add_vocabulary(writer, tokenizer, config.vocab_size, whole=False)
    write_gguf(writer, llama_tensors(model, "f16", keep_head=True))


def main() -> None:
    """Run all ways, and write their numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "predictors", "text"):
        parser.add_argument(name)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    model = ps.load(options.model, dtype=torch.float32)
    tokenizer = ps.load_tokenizer(options.model)
    found, predictors = ffns(model), read_predictors(options.predictors)
    text = digitless(options.text, tokenizer, (CHUNKS + 1) * CONTEXT)
    ids = torch.tensor(tokenizer(text)["input_ids"])[: CHUNKS * CONTEXT]
    prompt = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    greedy = {"max_new_tokens": options.tokens, "do_sample": False, "pad_token_id": 0}

    def ours(name: str) -> Way:
        written = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            eos_token_id=None,
            use_cache=True,
            **greedy,
        )
        return Way(name, tokenizer.decode(written[0]).strip(), our_perplexity(model, ids), None)

    ways = [ours("ours, exact")]
    with skipping(model, found, predictors):
        ways.append(ours("ours, predicted"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "text.txt").write_text(text)
        record = ps.export(
            options.model, to="powerinfer", predictors=options.predictors, out=folder / "out"
        )
        write_dense(model, tokenizer, folder / "dense.gguf")
        sparse = folder / "out" / record.file
        given = options.engine, sparse, folder / "text.txt", options.tokens
        ways.append(engine("PowerInfer, predicted", *given))
        ways.append(engine("PowerInfer, all neurons", *given, threshold=EVERYTHING))
        dense = engine("PowerInfer, dense file", given[0], folder / "dense.gguf", *given[2:])
    ways.append(Way(dense.name, None, None, dense.ms))  # its graph computes SiLU
    commit = subprocess.run(
        ["git", "-C", options.engine, "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    write(options.folder, ways, commit, record, options)


def agreement(first: str | None, second: str | None) -> str:
    """Return how long two texts are the same, in words."""
    if first is None or second is None:
        return "–"
    if first == second:
        return "the same text"
    same = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return f"the same for {same} characters of {len(first)}"


def write(folder: Path, ways: list[Way], commit: str, record, options) -> None:
    """Write the numbers and a page of them."""
    own = {"exact": ways[0], "predicted": ways[1]}
    partners = {"PowerInfer, predicted": "predicted", "PowerInfer, all neurons": "exact"}
    dense_ms = ways[-1].ms
    rows = []
    for way in ways:
        partner = partners.get(way.name)
        told = "" if partner is None else agreement(own[partner].text, way.text)
        rows.append(
            f"| {way.name} | {'–' if way.perplexity is None else f'{way.perplexity:.4f}'} | "
            f"{'–' if way.ms is None else f'{1e3 / way.ms:.1f}'} | "
            f"{'–' if way.ms is None else f'{dense_ms / way.ms:.2f}x'} | {told or '–'} |"
        )
    made = provenance("cpu")
    page = f"""# PowerInfer runs our file

`python benchmarks/powerinfer.py {Path(options.model).name} ...`, {made.date}, {made.device},
{made.num_threads} threads. PowerInfer is commit {commit} of github.com/SJTU-IPADS/PowerInfer, built for the
CPU. {options.tokens} greedy tokens after "{PROMPT}"; perplexity of the second half of {CHUNKS} windows of
{CONTEXT} tokens of {Path(options.text).name} without its digits, which the engine would cut otherwise. Times are
medians of {ROUNDS} runs. Text and perplexity are of one thread: with more, PowerInfer's threads add their parts of a sparse
FFN's output into one vector without a lock. "All neurons" is the same file with a threshold below every logit. The dense file has the same
weights for PowerInfer's dense graph, which computes SiLU: only its time means anything.

| way | perplexity | tokens/s | over PowerInfer's dense run | greedy text |
| :--- | ---: | ---: | ---: | :--- |
{chr(10).join(rows)}
"""
    numbers = {
        "engine_commit": commit,
        "file_bytes": record.num_bytes,
        "type": record.type,
        "ways": [asdict(way) for way in ways],
        "provenance": encode(made),
    }
    with whole_folder(folder) as unfinished:
        (unfinished / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
        (unfinished / "report.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
