# SPDX-License-Identifier: Apache-2.0
"""`prosparse bench ops`, `decode` and `train`, from help to report."""

import dataclasses
import re

import pytest
import torch

from prosparse.benchmarking import limit, ops, timing
from prosparse.benchmarking.contenders import contenders
from prosparse.kernels import reference
from prosparse.kernels.backend import choose_backend, use_backend
from prosparse.records.files import read_record

BACKEND = choose_backend(torch.device("cpu"))
OPS = ("bench", "ops", "--shape", "64x192", "--device", "cpu", "--quick")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 0)
    monkeypatch.setattr(limit, "SIZES_MB_CPU", (0.03, 0.06, 0.12))
    monkeypatch.setattr(limit, "BUFFER_BYTES_CPU", 2**20)


@pytest.mark.parametrize("verb", ["ops", "decode", "train"])
def test_help_shows_an_example(prosparse, verb):
    result = prosparse("bench", verb, "--help")
    assert result.code == 0
    assert re.search(rf"Example:\s*prosparse bench {verb} ", result.out)


def test_ops_prints_rows_limit_and_headline_and_writes_a_report(prosparse, tmp_path):
    out = tmp_path / "out"
    result = prosparse(
        *OPS, "--shape", "96x200", "--sparsity", "0,0.9", "--tokens", "1,2", "--mask", "clustered",
        "--dtype", "float32", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    record = read_record(out)
    assert [shape.name for shape in record.shapes] == ["64x192", "96x200"]
    assert {row.mask for row in record.rows} == {"clustered"}
    assert (
        sum(line.startswith(f"sparse_ffn, {BACKEND}") for line in result.out.splitlines()) == 2 * 3
    )
    assert "Limit: " in result.out
    assert "the fastest sparse FFN" in result.out
    assert f"Not run: screened_ffn, {BACKEND} at 96x200: " in result.out
    assert f"Wrote {out}/report.html" in result.out
    assert prosparse(*OPS, "--out", out).code == 2
    assert prosparse(*OPS, "--out", out, "--overwrite").code == 0


def test_a_wrong_result_ends_with_code_1(prosparse, monkeypatch):
    def spoiled(device, backends):
        found = contenders(device, backends)
        like = next(c for c in found if c.step == "ffn" and not c.is_dense)
        build = lambda layer: lambda: torch.zeros_like(layer.x)  # noqa: E731
        return [*found, dataclasses.replace(like, name="spoiled", build=build)]

    monkeypatch.setattr(ops, "contenders", spoiled)
    result = prosparse(*OPS, "--sparsity", "0.9")
    assert result.code == 1
    (row,) = [line for line in result.out.splitlines() if line.startswith("spoiled")]
    assert " wrong " in row
    assert "1.0e+00" in row


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tokens", "1.5"), "--tokens takes whole numbers"),
        (("--tokens", "32"), "--tokens must be 1 to 16; found 32"),
        (("--sparsity", "much"), "--sparsity takes numbers"),
        (("--mask", "even"), "--mask must be random, clustered or a .npy file"),
        (("--shape", "huge"), "--shape must be one of llama2-7b"),
        (("--dtype", "int8"), "--dtype must be one of"),
        (("--device", "cuda:99"), "Device 'cuda:99' cannot be used here"),
    ],
)
def test_mistakes_are_one_line_and_code_2(prosparse, arguments, complaint):
    result = prosparse(*OPS, *arguments)
    assert result.code == 2
    assert complaint in result.complaint


def test_decode_of_a_checkpoint_says_what_sparsity_buys(prosparse, relu_checkpoint, tmp_path):
    out = tmp_path / "out"
    result = prosparse(
        "bench", "decode", relu_checkpoint, "--prompt", "def", "--tokens", 4, "--device", "cpu",
        "--quick", "--no-compile", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "Sparsity buys " in result.out
    assert "4 equal" in result.out
    assert "\nExact: 4 tokens, logits within " in result.out
    assert f"Wrote {out}/report.html" in result.out
    assert read_record(out).kind == "bench_decode"


def test_a_decode_that_is_not_exact_ends_with_code_1(prosparse, relu_checkpoint, monkeypatch):
    right = reference.gate_up
    monkeypatch.setattr(reference, "gate_up", lambda *given: right(*given) + 1e-9)
    with use_backend("reference"):
        result = prosparse(
            "bench", "decode", relu_checkpoint, "--prompt", "def", "--tokens", 4, "--device", "cpu",
            "--quick", "--no-compile",
        )  # fmt: skip
    assert result.code == 1
    assert "\nNOT exact (sparse): 4 tokens" in result.out
    assert "no sparse decode was timed" in result.out


def test_decode_refuses_a_dense_model(prosparse, checkpoint):
    result = prosparse("bench", "decode", checkpoint, "--device", "cpu")
    assert result.code == 2
    assert "no zeros to skip" in result.err.splitlines()[-1]


TRAIN = ("bench", "train", "--shape", "64x192", "--tokens", 40, "--device", "cpu", "--quick")


def test_train_prints_rows_and_headline_and_writes_a_report(prosparse, tmp_path):
    out = tmp_path / "out"
    result = prosparse(*TRAIN, "--dtype", "float32", "--out", out)
    assert result.code == 0, result.err
    record = read_record(out)
    assert record.kind == "bench_train"
    lines = result.out.splitlines()
    for row in record.rows:
        assert sum(line.startswith(row.contender) for line in lines) >= 1
    assert "ReGLU with the L1 norm and the count, fused, takes " in result.out
    assert f"Wrote {out}/report.html" in result.out
    assert prosparse(*TRAIN, "--out", out).code == 2


def test_train_with_a_wrong_result_ends_with_code_1(prosparse, monkeypatch):
    right = reference.reglu
    monkeypatch.setattr(
        reference, "reglu", lambda *given: (right(*given)[0] * 1.1, *right(*given)[1:])
    )
    result = prosparse(*TRAIN)
    assert result.code == 1
    assert "WRONG, and so without a time: ReGLU, L1 and count, fused, eager (ffn)" in result.out


def test_train_says_what_it_cannot_take(prosparse):
    result = prosparse(*TRAIN[:4], "--tokens", 0, "--device", "cpu")
    assert result.code == 2
    assert "--tokens must be at least 1" in result.complaint
