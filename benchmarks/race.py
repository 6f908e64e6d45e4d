# SPDX-License-Identifier: Apache-2.0
"""Decode on this CPU in turns: stock transformers, llama.cpp, ours dense and ours sparse, in 16, 8 and 4 bits.

python benchmarks/race.py FOLDER --model smollm2-135m-relu.gguf
python benchmarks/race.py FOLDER --shape llama2-7b --layers 2,8

See docs/cpu.md. llama.cpp takes part where llama-cpp-python and gguf can be imported.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import race_llamacpp
import torch
from race_engines import Course, Entrant, entrants
from torch import Tensor
from transformers import PreTrainedModel

import prosparse as ps
from prosparse.benchmarking.decode_model import random_model
from prosparse.benchmarking.decode_runs import Decode
from prosparse.benchmarking.limit import measure_limit
from prosparse.benchmarking.timing import Repeats, Stopwatch, spread
from prosparse.kernels.cpu.library import why_no_library
from prosparse.model.activation import SPARSE_ACTIVATIONS, make_activation
from prosparse.model.device import provenance
from prosparse.model.relufy import activation_of, relufy_in_place
from prosparse.model.shapes import model_shape
from prosparse.records.codec import encode
from prosparse.records.files import whole_folder
from prosparse.runtime.compiled import can_compile

CPU = torch.device("cpu")
PROMPT = "The history of the city begins with a small village at the mouth of the river,"
RANDOM_PROMPT = 32
WARM_UP_TOKENS = 4
SILU = (
    "llama.cpp's graph of a Llama has SiLU and reads all weights: its text is not that of a ReLU "
    "model, its time is what it takes for these bytes."
)
DENSE = "Ours, dense: our kernels with a threshold that every neuron passes; its text is not the model's."


@dataclass(frozen=True, slots=True)
class Result:
    """One entrant, at one number of layers."""

    name: str
    bits: int
    ms: float
    """Median time of a token, in milliseconds."""
    ms_p10: float
    ms_p90: float
    best_ms: float
    mb: float | None
    """Weights that a token reads."""
    ffn_share: float | None
    """Of the token's time: the rest of it is timed without any FFN."""


def run_in_turns(runners: list[Entrant], prompt: Tensor, tokens: int, rounds: int) -> list[Result]:
    """Let every entrant decode in every round, and give each the median of all its tokens."""
    bare = {id(e.without_ffns): e.without_ffns for e in runners if e.without_ffns is not None}
    decodes: dict[int, Decode] = {id(e.decode): e.decode for e in runners} | bare
    times: dict[int, list[float]] = {key: [] for key in decodes}
    for decode in decodes.values():
        decode(prompt, WARM_UP_TOKENS)  # compiles
    for _ in range(rounds):
        for key, decode in decodes.items():
            times[key] += decode(prompt, tokens).step_ms
    results = []
    for entrant in runners:
        steps = times[id(entrant.decode)]
        found, rest = spread(steps), times.get(id(entrant.without_ffns))
        share = None if rest is None else 1 - statistics.median(rest) / found.median
        results.append(
            Result(
                entrant.name,
                entrant.bits,
                found.median,
                found.p10,
                found.p90,
                min(steps),
                entrant.mb,
                share,
            )
        )
    return results


def extrapolated(few: Result, many: Result, counts: tuple[int, int], layers: int) -> Result | None:
    """Return what all layers take, on the line through two measured numbers of them.

    Its spread is that of the larger number, relatively. None where more layers took no longer.
    """
    if many.ms <= few.ms:
        return None

    def line(low: float, high: float) -> float:
        return high + (high - low) / (counts[1] - counts[0]) * (layers - counts[1])

    ms = line(few.ms, many.ms)
    share = None
    if few.ffn_share is not None and many.ffn_share is not None:
        share = line(few.ffn_share * few.ms, many.ffn_share * many.ms) / ms
    return replace(
        many,
        ms=ms,
        ms_p10=many.ms_p10 * ms / many.ms,
        ms_p90=many.ms_p90 * ms / many.ms,
        best_ms=many.best_ms * ms / many.ms,
        mb=None if few.mb is None or many.mb is None else line(few.mb, many.mb),
        ffn_share=share,
    )


def table(results: list[Result], gb_per_s: float) -> str:
    """Return the results as Markdown."""
    lines = [
        "| bits | who | tokens/s | ms, median (10-90 %) | MB a token | of read bandwidth | FFN's share |",
        "| ---: | :--- | ---: | :--- | ---: | ---: | ---: |",
    ]
    for r in results:
        mb = "-" if r.mb is None else f"{r.mb:,.1f}"
        rate = "-" if r.mb is None else f"{r.mb / r.ms / gb_per_s:.0%}"
        share = "-" if r.ffn_share is None else f"{r.ffn_share:.0%}"
        lines.append(
            f"| {r.bits} | {r.name} | {1e3 / r.ms:.1f} | {r.ms:.2f} ({r.ms_p10:.2f}-{r.ms_p90:.2f}) | "
            f"{mb} | {rate} | {share} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the race and write `race.json` and `report.md`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a Llama: folder or .gguf; given ReLU if it has none")
    parser.add_argument("--shape", default="llama2-7b", help="of random weights, without --model")
    parser.add_argument(
        "--layers", help="of random weights: so many; or two numbers, whose line gives all"
    )
    parser.add_argument("--sparsity", default="0.8,0.893,0.95", help="of random weights")
    parser.add_argument("--bits", default="16,8,4")
    parser.add_argument("--tokens", type=int, default=64, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reason = race_llamacpp.why_not()
    remarks = [reason if reason else race_llamacpp.about()]
    compiled = not options.no_compile and can_compile(CPU)
    if not compiled:
        remarks.append("Nothing is compiled: there is no C++ compiler, or --no-compile was given.")
    if why_no_library():
        remarks.append(str(why_no_library()))

    counts = tuple(int(n) for n in options.layers.split(",")) if options.layers else (None,)
    measured: list[list[Result]] = []
    for count in counts:
        model, ids, sparsities = read_model(options, count)
        results = []
        with tempfile.TemporaryDirectory() as folder:
            length = ids.shape[1] + options.tokens
            course = Course(ids, length, compiled, sparsities, Path(folder))
            for bits in map(int, options.bits.split(",")):
                torch._dynamo.reset()
                with entrants(model, bits, course, reason is None) as runners:
                    results += run_in_turns(runners, ids, options.tokens, options.rounds)
        measured.append(results)
    write(options, measured, counts, remarks)


def read_model(
    options: argparse.Namespace, layers: int | None
) -> tuple[PreTrainedModel, Tensor, list[float]]:
    """Return a model, its prompt and the sparsities to set."""
    if options.model is None:
        shape = model_shape(options.shape)
        model = random_model(shape, layers, torch.bfloat16, CPU, seed=0)
        ids = torch.randint(
            shape.vocab_size, (1, RANDOM_PROMPT), generator=torch.Generator().manual_seed(1)
        )
        return model, ids, [float(part) for part in options.sparsity.split(",")]
    model = ps.load(options.model, dtype=torch.bfloat16, device="cpu")
    if activation_of(model).name not in SPARSE_ACTIVATIONS:  # a GGUF file does not name it
        relufy_in_place(model, make_activation("relu"))
    ids = ps.load_tokenizer(options.model)(PROMPT, return_tensors="pt").input_ids
    return model, ids, []


def write(
    options: argparse.Namespace,
    measured: list[list[Result]],
    counts: tuple[int | None, ...],
    remarks: list[str],
) -> None:
    """Write the record and its Markdown, and print the latter."""
    limit = measure_limit(CPU, Stopwatch(CPU, Repeats(2, 9)))
    gb_per_s = 1e3 / limit.us_per_mb
    name = Path(options.model).name if options.model else options.shape
    layers = f"{counts[0]} layers" if counts[0] else "all layers"
    results = measured[-1]
    if len(counts) == 2:
        whole = model_shape(options.shape).num_layers
        layers = f"{whole} layers, on the line through measured {counts[0]} and {counts[1]}"
        lines = [extrapolated(f, m, counts, whole) for f, m in zip(*measured, strict=True)]
        results = [found for found in lines if found is not None]
        remarks += [
            f"{many.bits} bits, {many.name}: {counts[1]} layers took no longer than {counts[0]}; "
            "the machine was too busy to tell."
            for many, found in zip(measured[-1], lines, strict=True)
            if found is None
        ]
    made = provenance(CPU, 0)
    title = (
        f"# Race: {name}, {layers}\n\n{made.device}, {options.threads} threads, {options.rounds} rounds of "
        f"{options.tokens} tokens in turns. Memory reads at {gb_per_s:.1f} GB/s ({limit.method})."
    )
    text = "\n\n".join([title, table(results, gb_per_s), SILU, DENSE, *remarks]) + "\n"
    record = {
        "model": name,
        "layers": counts,
        "options": {
            key: str(value)
            for key, value in vars(options).items()
            if key not in ("folder", "model")
        },
        "gb_per_s": gb_per_s,
        "measured": encode(measured),
        "results": encode(results),
        "remarks": remarks,
        "provenance": encode(made),
    }
    with whole_folder(options.folder) as folder:
        (folder / "race.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(text, encoding="utf-8")
    print(text)  # noqa: T201


if __name__ == "__main__":
    main()
