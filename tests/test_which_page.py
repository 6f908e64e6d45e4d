# SPDX-License-Identifier: Apache-2.0
"""docs/which.md: its numbers are those of records, and its commands run as they stand there.

The command line knows the commands of the other pages, too.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from prosparse.cli.main import app
from prosparse.records.files import read_record
from prosparse.reporting import page as _page  # noqa: F401 - it knows all headlines
from prosparse.reporting.grids import Grid
from prosparse.reporting.numerals import percent
from prosparse.reporting.tables import markdown_table
from tests.conftest import byte_tokenizer, tiny_llama, write_documents

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/which.md").read_text("utf-8")
RESULTS = ROOT / "benchmarks/results"


def in_blocks(text: str) -> list[str]:
    """Return the commands of ours that stand alone in blocks; those with `[--options]` are no commands."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.M | re.S)
    joined = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines = [line.partition(" #")[0].strip() for line in joined]
    return [s for s in lines if s.startswith("prosparse ") and not re.search(r"[\[|]|\.\.\.", s)]


COMMANDS = in_blocks(PAGE) + re.findall(r"`(prosparse [^`]+ --[^`]+)`", PAGE)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
ELSEWHERE = {command for page in PAGES for command in in_blocks(page.read_text("utf-8"))}
HEADER = ("model", "weights", "machine", "zeros", "dense, tokens/s", "sparse, tokens/s", "gain")
# What makes a run short; nothing that the page is about.
SHORT = "--tokens 512 --context-length 64"
SHORTER = {
    "measure": SHORT,
    "threshold": f"{SHORT} --max-perplexity-increase 10",
    "generate": "--tokens 4",
    "quantize": f"{SHORT} --deciding-tokens 128 --max-perplexity-increase 10",
    "predictor fit": "--rows 600 --rank 4 --epochs 1 --context-length 64",
    "predictor eval": SHORT,
    "evaluate": "--data-dir items --tasks piqa",
    "bench decode": "--tokens 4 --no-compile",
}


def expected(folders: str) -> str:
    rows = []
    for folder in folders.split():
        record = read_record(RESULTS / folder)
        dense, sparse = record.fastest_dense, record.fastest_sparse
        bits = record.dtype if record.weight_bits is None else f"FFNs in {record.weight_bits} bits"
        layers = "2 layers, " if record.num_layers == 2 else ""
        machine = record.provenance.device
        if "NVIDIA" not in machine:
            machine += f", {record.provenance.num_threads} threads"
        rows.append(
            (
                record.model.removesuffix(".gguf"),
                f"{layers}{'random, ' if record.is_random else ''}{bits}",
                machine,
                percent(record.sparsity, 1),
                f"{dense.tokens_per_second:.1f} ({dense.contender})",
                f"{sparse.tokens_per_second:.1f} ({sparse.contender})",
                f"{sparse.speedup:.2f}x",
            )
        )
    return markdown_table(Grid(HEADER, rows))


def test_the_speeds_are_those_of_the_records():
    ((folders),) = re.findall(r"<!-- expect: (.+) -->", PAGE)
    assert len(folders.split()) >= 5
    assert f"<!-- expect: {folders} -->\n\n{expected(folders)}" in PAGE


def test_the_sentence_on_predictors_is_that_of_its_record():
    record = read_record(RESULTS / "decode_predicted_135m_cpu_2026-11-26")
    predicted, exact = record.fastest_predicted, record.fastest_sparse
    assert (
        f"it decodes {predicted.tokens_per_second:.1f} tokens/s where the exact way makes "
        f"{exact.tokens_per_second:.1f} " in PAGE
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with everything that the commands name."""
    folder = tmp_path_factory.mktemp("which")
    sizes = {"hidden_size": 128, "intermediate_size": 192, "max_position_embeddings": 1024}
    for name, activation in (("MODEL", "relu"), ("DENSE", "silu")):
        tiny_llama(hidden_act=activation, **sizes).save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    texts = [f"The number {n} follows {n - 1} and comes before {n + 1}. " * 3 for n in range(99)]
    write_documents(folder / "text.jsonl", texts)
    return folder


def verb_of(words: list[str]) -> str:
    is_group = words[1] in ("predictor", "bench")
    return " ".join(words[1:3]) if is_group else words[1]


@pytest.mark.parametrize("command", sorted({*COMMANDS, *ELSEWHERE}))
def test_the_command_line_knows_it(command):
    """Verb, options and their number, of the commands of all pages."""
    words = shlex.split(command)
    parser = typer.main.get_command(app)
    verb = verb_of(words)
    for name in verb.split():
        parser = parser.commands[name]
    parser.make_context(verb, words[1 + len(verb.split()) :])  # raises what the user would read


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(here, recipe_data, monkeypatch, capsys):
    pytest.importorskip("gguf")
    pytest.importorskip("lm_eval")
    from prosparse.cli.main import main
    from tests.evaluation.conftest import write_items

    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    monkeypatch.chdir(here)
    write_items(here / "items")
    recipe_data["out"] = "run"
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe_data))
    assert len(COMMANDS) > 15
    for command in COMMANDS:
        words = shlex.split(command)
        verb = verb_of(words)
        if verb == "push":
            continue
        monkeypatch.setattr("sys.argv", [*words, *SHORTER.get(verb, "").split()])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code, f"{command}: {capsys.readouterr().err}"
