# SPDX-License-Identifier: Apache-2.0
"""Does vLLM answer with our plugin as transformers does, does it hold, and how fast is it?

python benchmarks/serving.py MODEL FOLDER [--dtype float32] [--vllm OPTION OF VLLM...]
python benchmarks/serving.py MODEL FOLDER --minutes 5 ...

Runs where vLLM is installed beside prosparse. The first times one server after another, of the same model:
with the sparse path, with a packed copy for longer steps as well, and with vLLM's own dense path. The sparse
one is also asked 20 prompts one by one, then in waves that grow and shrink over the sparse/dense switch. The
second lets 8 clients ask it at once for some minutes. All texts are compared with transformers' greedy ones.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import torch
import vllm
from openai import AsyncOpenAI

import prosparse as ps
from prosparse.model.device import provenance
from prosparse.records.codec import encode
from prosparse.records.files import whole_folder

SUBJECTS = (
    "The printing press", "A lighthouse keeper", "The history of salt", "In the year 1815",
    "def fibonacci(n):", "The mitochondria of a cell", "To bake a loaf of bread", "Once upon a time",
    "The train from Vienna", "A prime number is", "The capital of France", "When the war was over",
    "import numpy as np", "The law of gravity", "My grandmother used to", "The market opened",
    "Every morning the baker", "A function is continuous", "The river Danube", "Dear Sir or Madam",
)  # fmt: skip
NEW_TOKENS = 48
WAVES = (1, 24, 2, 20, 17, 16, 3, 12)
CLIENTS = 8
CONCURRENT = (1, 2, 4, 8, 16)
ROUNDS = 3
METRIC = re.compile(r"^(prosparse_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
WAYS = {
    "sparse": {},
    "sparse, packed copy": {"prosparse_max_tokens": 4, "prosparse_packed_copy": True},
    "dense": {"prosparse_max_tokens": 0},
}
"""What vLLM is told for us; the last is its own dense path."""


@dataclass
class Soak:
    """What came of the clients that asked for minutes."""

    minutes: float
    requests: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    other_texts: int = 0
    """Answers that do not begin the greedy text."""
    memory_mb: list[int] = field(default_factory=list)
    """Resident memory of all processes of the server, every ten seconds."""


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen
    url: str
    client: AsyncOpenAI
    model: str

    def memory_mb(self) -> int:
        """Return the resident memory of its processes."""
        parent = psutil.Process(self.process.pid)
        everybody = [parent, *parent.children(recursive=True)]
        return sum(each.memory_info().rss for each in everybody) // 2**20

    def metrics(self) -> dict[str, float]:
        """Return our metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {name + labels: float(value) for name, labels, value in METRIC.findall(text)}

    async def stream(self, prompt: str, num_tokens: int = NEW_TOKENS) -> str:
        """Return the greedy text, as it was streamed."""
        pieces = await self.client.completions.create(
            model=self.model, prompt=prompt, max_tokens=num_tokens, temperature=0, stream=True
        )
        return "".join([piece.choices[0].text async for piece in pieces])

    async def speed(self, num_requests: int) -> float:
        """Return the new tokens of a second while so many requests are answered at once."""
        ask = self.client.completions.create
        options = {"max_tokens": NEW_TOKENS, "temperature": 0, "extra_body": {"ignore_eos": True}}
        prompts = list(itertools.islice(itertools.cycle(SUBJECTS), num_requests))
        began = time.perf_counter()
        await asyncio.gather(*(ask(model=self.model, prompt=p, **options) for p in prompts))
        return num_requests * NEW_TOKENS / (time.perf_counter() - began)


@contextlib.contextmanager
def serving(model: str, dtype: str, options: list[str], log: Path) -> Iterator[Server]:
    """Start `prosparse serve` and wait until it answers; stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prosparse.cli.main", "serve", model, "--engine", "vllm"]
    command += ["--port", str(port), "--dtype", dtype, "--", *options]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            time.sleep(1)
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
        else:
            raise SystemExit(f"the server ended; see {log}")
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
        yield Server(process, url, client, model)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def greedy_texts(model: str, dtype: str) -> dict[str, str]:
    """Return transformers' greedy text of every prompt."""
    network, tokenizer = ps.load(model, dtype=getattr(torch, dtype)), ps.load_tokenizer(model)
    texts = {}
    for prompt in SUBJECTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = network.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[-1] :]
        texts[prompt] = tokenizer.decode(new, skip_special_tokens=True)
    return texts


async def same_texts(server: Server, texts: dict[str, str]) -> int:
    """Ask for all texts, one by one; return how many came as they should."""
    return sum([await server.stream(prompt) == text for prompt, text in texts.items()])


async def waves(server: Server, texts: dict[str, str]) -> tuple[int, int]:
    """Let the batch grow and shrink; return how many texts were the greedy ones, of how many."""
    prompts = itertools.cycle(texts)
    same = 0
    for size in WAVES:
        batch = list(itertools.islice(prompts, size))
        # Of different lengths, so that a wave shrinks while it is answered.
        lengths = [NEW_TOKENS - i * NEW_TOKENS // (size + 1) for i in range(size)]
        answers = await asyncio.gather(*map(server.stream, batch, lengths))
        same += sum(texts[p].startswith(a) for p, a in zip(batch, answers, strict=True))
    return same, sum(WAVES)


async def soak(server: Server, texts: dict[str, str], minutes: float) -> Soak:
    """Let clients ask, each one request after the other, until time is over."""
    result, end = Soak(minutes), time.monotonic() + 60 * minutes

    async def client(number: int) -> None:
        lengths = itertools.cycle((8, 48, 24, 40, 16))
        for prompt in itertools.islice(itertools.cycle(texts), number, None):
            if time.monotonic() >= end:
                return
            length = next(lengths)
            try:
                answer = await server.stream(prompt, length)
            except Exception as error:  # whatever it is, it is what we look for
                result.errors.append(repr(error))
                continue
            result.requests += 1
            result.tokens += length
            result.other_texts += not texts[prompt].startswith(answer)

    async def watch() -> None:
        while time.monotonic() < end:
            result.memory_mb.append(server.memory_mb())
            await asyncio.sleep(10)

    await asyncio.gather(watch(), *(client(number) for number in range(CLIENTS)))
    return result


async def speeds(server: Server) -> dict[int, list[float]]:
    """Return tokens/s by the number of requests at once, each several times."""
    await server.speed(2)  # the first ones warm it up
    return {n: [await server.speed(n) for _ in range(ROUNDS)] for n in CONCURRENT}


def speed_lines(record: dict) -> list[str]:
    """Return tokens/s of every way, and the texts, as Markdown."""
    lines = [
        f"| requests at once | {' | '.join(f'{way}, tokens/s' for way in WAYS)} | sparse over dense |",
        f"| ---: |{' ---: |' * (len(WAYS) + 1)}",
    ]
    for count in CONCURRENT:
        middle = {way: statistics.median(record["speeds"][way][count]) for way in WAYS}
        ratio = middle["sparse"] / middle["dense"]
        cells = [f"{count}", *(f"{each:.1f}" for each in middle.values()), f"{ratio:.2f}x"]
        lines.append(f"| {' | '.join(cells)} |")
    same, asked = record["same_in_waves"]
    return [
        *lines,
        "",
        f"* Medians of {ROUNDS}, {NEW_TOKENS} tokens a request.",
        f"* Greedy text, streamed, as transformers': {record['same_texts']} of {len(SUBJECTS)} prompts; "
        f"in waves of {', '.join(map(str, WAVES))} requests at once {same} of {asked}.",
    ]


def soak_lines(soaked: Soak) -> list[str]:
    """Return what came of the clients as Markdown."""
    memory = soaked.memory_mb
    return [
        f"* {CLIENTS} clients at once for {soaked.minutes:g} minutes: {soaked.requests} requests, "
        f"{soaked.tokens} tokens, {len(soaked.errors)} errors, {soaked.other_texts} texts that are not "
        "transformers'.",
        f"* Memory of the server's processes: {memory[0]} MB at the beginning, {memory[len(memory) // 2]} MB "
        f"half-way, {memory[-1]} MB at the end.",
    ]


async def compare(server: Server, texts: dict[str, str], is_sparse: bool) -> dict:
    """Time a server; ask the sparse one for its texts."""
    found: dict = {"speeds": await speeds(server)}
    if is_sparse:
        found["same_texts"] = await same_texts(server, texts)
        found["same_in_waves"] = await waves(server, texts)
        found["metrics"] = server.metrics()
    return found


async def hold(server: Server, texts: dict[str, str], minutes: float) -> dict:
    """Let the clients ask."""
    return {"soak": asdict(await soak(server, texts, minutes)), "metrics": server.metrics()}


def main() -> None:
    """Run everything and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--vllm", nargs=argparse.REMAINDER, default=[], dest="options")
    given = parser.parse_args()
    texts = greedy_texts(given.model, given.dtype)
    options = ["--max-model-len", "512", "--max-num-seqs", "32", *given.options]
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    record: dict = {"model": Path(given.model).name, "dtype": given.dtype, "options": options}
    record |= {"ways": WAYS, "speeds": {}}
    for way in ["sparse"] if given.minutes else WAYS:
        log = given.folder.with_name(f"{given.folder.name}.{way}.log")
        told = [*options, "--additional-config", json.dumps(WAYS[way])]
        with serving(given.model, given.dtype, told, log) as server:
            if given.minutes:
                record |= asyncio.run(hold(server, texts, given.minutes))
            else:
                found = asyncio.run(compare(server, texts, way == "sparse"))
                record["speeds"][way] = found.pop("speeds")
                record |= found
    record |= {"vllm": vllm.__version__, "provenance": encode(provenance("cpu"))}
    with whole_folder(given.folder, overwrite=False) as folder:
        (folder / "serving.json").write_text(json.dumps(record, indent=2) + "\n")
        (folder / "report.md").write_text(report(record))
    print(report(record))


def report(record: dict) -> str:
    """Return the record as Markdown."""
    source, live = record["provenance"], record["metrics"]
    lines = [
        "# vLLM with the plugin\n",
        f"`{source['command']}`, {source['date']}, {source['device']}, {os.cpu_count()} cores. "
        f"{record['model']}, {record['dtype']}, vLLM {record['vllm']} with `{' '.join(record['options'])}`.",
        "",
        *(soak_lines(Soak(**record["soak"])) if "soak" in record else speed_lines(record)),
        f"* `/metrics` said: sparsity {live['prosparse_sparsity']:.3f}, FFN weights skipped "
        f"{live['prosparse_weights_skipped']:.3f}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
