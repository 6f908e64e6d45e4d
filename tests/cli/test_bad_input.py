# SPDX-License-Identifier: Apache-2.0
"""Every mistake is one sentence on stderr and exit code 2, and leaves nothing behind."""

import errno
import sys

import pytest
from gguf import GGUFWriter
from transformers import BertConfig, BertForMaskedLM

from prosparse.records.files import RECORD_NAME


def data_option(texts) -> tuple[str, str]:
    return "--data", f"prose={texts['prose']}"


def test_model_path_that_does_not_exist(prosparse, tmp_path):
    result = prosparse("relufy", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert result.code == 2
    assert "nowhere" in result.complaint
    assert "does not exist" in result.complaint
    assert not (tmp_path / "out").exists()


def test_model_that_is_not_causal(prosparse, tmp_path):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**small, intermediate_size=16, vocab_size=32)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    result = prosparse("relufy", tmp_path / "bert", "--out", tmp_path / "out")
    assert result.code == 2
    assert "BertForMaskedLM" in result.complaint
    assert "not a causal language model" in result.complaint


@pytest.mark.parametrize("verb", ["train", "sparsify"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            lambda r: r["training"].update(learning_rte=1),
            ["training.learning_rte", "Did you mean 'learning_rate'"],
            id="unknown key",
        ),
        pytest.param(
            lambda r: r["regularization"]["stages"][2].update(factor=0.01),
            ["stages[2].factor", "decreases", "0.1", "0.01"],
            id="schedule that decreases",
        ),
        pytest.param(
            lambda r: r["regularization"]["stages"][1].update(until=1),
            ["stages[1].until", "greater than 2"],
            id="T_i out of order",
        ),
        pytest.param(
            lambda r: r["regularization"]["stages"][0].update(factor=-1),
            ["stages[0].factor", ">= 0", "-1"],
            id="negative lambda",
        ),
        pytest.param(
            lambda r: r["data"]["components"]["prose"].update(path="gone/prose.jsonl"),
            ["prose", "gone/prose.jsonl", "does not exist"],
            id="missing data",
        ),
        pytest.param(
            lambda r: r["measure"].update(tokens=0),
            ["at least one window of 32 tokens", "found 0"],
            id="no tokens",
        ),
        pytest.param(
            lambda r: r["sample"].update(prompt=""), ["sample", "prompt is empty"], id="no prompt"
        ),
    ],
)
def test_recipe_mistakes(prosparse, recipe_file, verb, change, words):
    path = recipe_file(change)
    result = prosparse(verb, path)
    assert result.code == 2
    for word in words:
        assert word in result.complaint


def test_recipe_that_does_not_exist(prosparse, tmp_path):
    result = prosparse("train", tmp_path / "none.yaml")
    assert result.code == 2
    assert "none.yaml" in result.complaint


def test_set_of_an_unknown_key(prosparse, recipe_file):
    result = prosparse("train", recipe_file(), "--set", "training.sed=1")
    assert result.code == 2
    assert "Did you mean 'seed'" in result.complaint


def test_output_folder_that_exists(prosparse, checkpoint, texts, recipe_file, tmp_path):
    out = tmp_path / "run"  # the recipe's too
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    for arguments in (
        ("relufy", checkpoint, "--out", out),
        ("measure", checkpoint, *data_option(texts), "--out", out),
        ("threshold", checkpoint, *data_option(texts), "--out", out),
        ("train", recipe_file()),
        ("sparsify", recipe_file()),
    ):
        result = prosparse(*arguments)
        assert result.code == 2
        assert "already exists" in result.complaint
        assert [path.name for path in out.iterdir()] == ["precious.txt"]


def test_gguf_cut_in_half(prosparse, tmp_path):
    import numpy as np

    path = tmp_path / "whole.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    half = tmp_path / "half.gguf"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = prosparse("relufy", half, "--out", tmp_path / "out")
    assert result.code == 2
    assert "half.gguf is not a whole GGUF file" in result.complaint


def test_data_file_with_a_broken_line(prosparse, checkpoint, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "whole"}\n{"text": "cut\n')
    result = prosparse("measure", checkpoint, "--data", f"prose={path}", "--context-length", 16)
    assert result.code == 2
    assert "broken.jsonl" in result.complaint
    assert "line 2" in result.complaint


@pytest.mark.parametrize("tokens", [0, -5])
def test_no_tokens(prosparse, checkpoint, texts, tokens):
    result = prosparse("measure", checkpoint, *data_option(texts), "--tokens", tokens)
    assert result.code == 2
    assert f"found {tokens}" in result.complaint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "prose"], "NAME=PATH"),
        (["--data", "a=x.txt", "--data", "a=y.txt"], "twice"),
        ([], "at least one --data"),
        (["--data", "a=DATA", "--precision", "int8"], "--precision must be"),
        (["--data", "a=DATA", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_options_of_measure(prosparse, checkpoint, texts, options, words):
    options = [option.replace("DATA", str(texts["prose"])) for option in options]
    result = prosparse("measure", checkpoint, *options)
    assert result.code == 2
    assert words in result.complaint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--candidates", "0.1,much"], "numbers with commas"),
        (["--candidates", "-0.1"], "above 0"),
        (["--max-perplexity-increase", "-1"], ">= 0"),
    ],
)
def test_options_of_threshold(prosparse, relu_checkpoint, texts, tmp_path, options, words):
    out = tmp_path / "out"
    result = prosparse("threshold", relu_checkpoint, *data_option(texts), "--out", out, *options)
    assert result.code == 2
    assert words in result.complaint
    assert not out.exists()


def test_threshold_of_a_dense_model(prosparse, checkpoint, texts, tmp_path):
    result = prosparse(
        "threshold", checkpoint, *data_option(texts), "--out", tmp_path / "out",
        "--context-length", 32, "--tokens", 64,
    )  # fmt: skip
    assert result.code == 2
    assert "silu" in result.err
    assert "prosparse relufy" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--activation", "swish"], "Unknown activation 'swish'"),
        (["--activation", "fatrelu"], "needs --threshold"),
        (["--activation", "relu", "--bias", "1"], "--bias"),
        (["--activation", "shifted-relu", "--bias", "-1"], ">= 0"),
    ],
)
def test_options_of_relufy(prosparse, checkpoint, tmp_path, options, words):
    result = prosparse("relufy", checkpoint, "--out", tmp_path / "out", *options)
    assert result.code == 2
    assert words in result.complaint


def test_generate_without_a_prompt(prosparse, checkpoint):
    result = prosparse("generate", checkpoint)
    assert result.code == 2
    assert "--prompt" in result.complaint


def test_generate_sparsely_with_a_dense_model(prosparse, checkpoint):
    result = prosparse("generate", checkpoint, "--prompt", "def", "--backend", "sparse")
    assert result.code == 2
    assert "gives no zeros to skip" in result.err.splitlines()[-1]


def test_generate_with_an_unknown_backend(prosparse, checkpoint):
    result = prosparse("generate", checkpoint, "--prompt", "def", "--backend", "cuda")
    assert result.code == 2
    assert (
        result.complaint
        == "--backend must be one of dense, sparse, screened, predicted; found 'cuda'."
    )


def test_report_of_a_folder_without_a_record(prosparse, tmp_path):
    result = prosparse("report", tmp_path)
    assert result.code == 2
    assert RECORD_NAME in result.complaint


@pytest.mark.parametrize("arguments", [["relufy"], ["measure", "--nonsense"], ["fly"]])
def test_usage_errors(prosparse, arguments):
    assert prosparse(*arguments).code == 2


def test_full_disk(prosparse, checkpoint, tmp_path, monkeypatch):
    def no_space(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    monkeypatch.setattr("prosparse.model.checkpoint.save", no_space)
    result = prosparse("relufy", checkpoint, "--out", tmp_path / "out")
    assert result.code == 2
    assert "No space left on device" in result.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def items(tmp_path):
    pytest.importorskip("lm_eval")
    from tests.evaluation.conftest import write_items

    return write_items(tmp_path / "items", ["copa.jsonl"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "nowhere/at/all"}, "No model at nowhere/at/all: the path does not exist."),
        ({"data_dir": "gone"}, "--data-dir gone is no folder."),
        ({"tasks": "piqua"}, "There is no task 'piqua'; did you mean 'piqa'?"),
        ({"tasks": "piqa"}, "There is no piqa.jsonl (plain, .xz, .zst or .gz) in "),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_an_evaluation_that_cannot_begin(
    prosparse, relu_checkpoint, items, tmp_path, change, words
):
    chosen = {"model": relu_checkpoint, "data_dir": items, "tasks": "copa", **change}
    result = prosparse(
        *("evaluate", chosen["model"], "--data-dir", chosen["data_dir"]),
        *("--tasks", chosen["tasks"], "--out", tmp_path / "out"),
    )
    assert result.code == 2
    assert words in result.complaint
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_its_extra(prosparse, relu_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    result = prosparse("evaluate", relu_checkpoint)
    assert result.code == 2
    assert "Benchmarks need lm-eval" in result.complaint
    assert "pip install 'prosparse[eval]'" in result.complaint


def test_a_push_of_what_is_no_checkpoint(prosparse, tmp_path):
    result = prosparse("push", tmp_path / "nowhere", "me/model")
    assert result.code == 2
    assert "nowhere is no folder" in result.complaint


def test_serving_a_model_without_zeros(prosparse, checkpoint):
    result = prosparse("serve", checkpoint, "--port", "8731")
    assert result.code == 2
    assert "gives no zeros to skip" in result.complaint


def test_serving_by_an_engine_that_is_not_known(prosparse, relu_checkpoint):
    result = prosparse("serve", relu_checkpoint, "--engine", "tgi")
    assert result.code == 2
    assert "--engine must be one of auto, vllm, transformers" in result.complaint
