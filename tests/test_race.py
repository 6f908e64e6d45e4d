# SPDX-License-Identifier: Apache-2.0
"""The race of benchmarks/race.py, on sizes where times mean nothing."""

import json
import sys
from pathlib import Path

import pytest
import torch

from prosparse.benchmarking import limit, timing
from prosparse.benchmarking.decode_check import dense_decode
from prosparse.model import shapes
from prosparse.model.shapes import llama_config

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setitem(shapes.SHAPES, "tiny", shapes.Shape("tiny", 64, 192, 3, 4, 2, 128))
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 0)
    monkeypatch.setattr(limit, "SIZES_MB_CPU", (0.03, 0.06, 0.12))
    monkeypatch.setattr(limit, "BUFFER_BYTES_CPU", 2**20)


def test_all_who_can_run_are_in_the_record(monkeypatch, tmp_path, capsys):
    import race

    monkeypatch.setattr(race.race_llamacpp, "why_not", lambda: "llama.cpp is not here.")
    out = tmp_path / "out"
    options = [
        "--shape",
        "tiny",
        "--sparsity",
        "0.8,0.9",
        "--tokens",
        "4",
        "--rounds",
        "2",
        "--no-compile",
    ]
    monkeypatch.setattr(sys, "argv", ["race.py", str(out), *options])
    race.main()
    record = json.loads((out / "race.json").read_text())
    ours = ["ours, dense", "ours, sparse 80.0%", "ours, sparse 90.0%"]
    found = [(row["bits"], row["name"]) for row in record["results"]]
    assert found == [(16, "transformers"), *((bits, who) for bits in (16, 8, 4) for who in ours)]
    by_name = {(row["bits"], row["name"]): row for row in record["results"]}
    sizes = [by_name[16, who]["mb"] for who in ("transformers", *ours)]
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
    assert by_name[8, "ours, dense"]["mb"] > by_name[4, "ours, dense"]["mb"]
    assert all(row["ms"] > 0 and row["ffn_share"] < 1 for row in record["results"])
    assert "llama.cpp is not here." in record["remarks"]
    assert (out / "report.md").read_text() in capsys.readouterr().out + "\n"


def test_the_plot_has_everybody_at_every_precision():
    pytest.importorskip("matplotlib")
    import race_plot

    names = ("transformers, compiled", "llama.cpp Q8_0, not repacked", "ours, sparse 80.0%")
    rows = [
        {"bits": bits, "name": name, "ms": 10.0 * (i + 1), "ms_p10": 9.0, "ms_p90": 11.0}
        for bits in (16, 4)
        for i, name in enumerate(names)
    ]
    svg = race_plot.race_plot(rows)
    for name in names:
        assert svg.count(f">{name}<") == 2
    assert ">16 bits<" in svg
    assert ">4 bits<" in svg
    assert svg.count(">33.3<") == 2


def test_all_layers_are_on_the_line_through_two_numbers_of_them():
    import race

    few = race.Result("a", 16, 2.0, 1.9, 2.1, 1.8, 20.0, 0.5)
    many = race.Result("a", 16, 4.0, 3.6, 4.4, 3.0, 40.0, 0.75)
    whole = race.extrapolated(few, many, (1, 2), 5)
    assert (whole.ms, whole.mb) == (10.0, 100.0)
    assert whole.ffn_share == pytest.approx((3 + 3 * 2) / 10)
    assert whole.ms_p10 == pytest.approx(9)
    assert race.extrapolated(many, few, (1, 2), 5) is None


def test_llamacpp_writes_the_text_of_the_same_weights(tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("llama_cpp")
    import race_llamacpp
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(shapes.SHAPES["tiny"], 2, "silu")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    prompt = torch.randint(128, (1, 9))
    path = tmp_path / "f16.gguf"
    race_llamacpp.write_gguf(model, path, "F16")
    with race_llamacpp.llama_decode(path, 32, 1) as decode:
        assert decode(prompt, 8).tokens == dense_decode(model, prompt, 8).tokens
