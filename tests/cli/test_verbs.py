# SPDX-License-Identifier: Apache-2.0
"""Every verb from its help to its output."""

import re

import pytest

import prosparse as ps
from prosparse.records.files import read_record
from tests.conftest import byte_tokenizer, tiny_llama

VERBS = [
    "relufy",
    "train",
    "measure",
    "threshold",
    "quantize",
    "generate",
    "plan",
    "fit",
    "frontier",
    "export",
    "report",
    "sparsify",
]


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(prosparse, verb):
    result = prosparse(verb, "--help")
    assert result.code == 0
    assert re.search(rf"Example:\s*prosparse {verb} ", result.out)


def test_help_names_every_verb(prosparse):
    result = prosparse("--help")
    assert result.code == 0
    assert all(verb in result.out for verb in VERBS)


def test_version(prosparse):
    assert prosparse("--version").out == f"prosparse {ps.__version__}\n"


def test_relufy_measure_generate(prosparse, checkpoint, texts, tmp_path):
    out = tmp_path / "relu"
    assert prosparse("relufy", checkpoint, "--out", out).code == 0
    assert read_record(out).activation.name == "relu"

    measured = prosparse(
        "measure", out, "--data", f"prose={texts['prose']}", "--data", f"code={texts['code']}",
        "--tokens", 128, "--context-length", 32, "--out", tmp_path / "measured",
    )  # fmt: skip
    assert measured.code == 0
    record = read_record(tmp_path / "measured")
    assert [data.data for data in record.data] == ["prose", "code"]
    assert f"{100 * record.sparsity:.2f}" in measured.out

    generated = prosparse("generate", out, "--prompt", "def", "--tokens", 5)
    assert generated.code == 0
    assert generated.out.rstrip("\n") == ps.generate(out, "def", max_new_tokens=5)


def test_measure_tells_how_sparse_a_dense_model_is(prosparse, checkpoint, texts, tmp_path):
    measured = prosparse(
        "measure", checkpoint, "--data", f"prose={texts['prose']}", "--detail", "--metric", "cett-ppl",
        "--max-perplexity-increase", 0.01, "--tokens", 256, "--context-length", 32,
        "--out", tmp_path / "measured",
    )  # fmt: skip
    assert measured.code == 0
    record = read_record(tmp_path / "measured")
    assert record.metric.max_perplexity_increase == 0.01
    assert f"With CETT = {record.metric.point.setting:.4g}, " in measured.out
    assert "| prose | windows | " in measured.out
    assert (tmp_path / "measured" / "neurons.npz").is_file()
    assert prosparse("report", tmp_path / "measured").code == 0


def test_generate_ends_with_the_pace(prosparse, relu_checkpoint):
    dense = prosparse("generate", relu_checkpoint, "--prompt", "def", "--tokens", 5)
    sparse = prosparse(
        "generate", relu_checkpoint, "--prompt", "def", "--tokens", 5, "--backend", "sparse"
    )
    assert dense.code == sparse.code == 0
    assert sparse.out == dense.out
    last, last_sparse = (result.err.splitlines()[-1] for result in (dense, sparse))
    assert re.fullmatch(r"\d tokens, [\d.]+/s \(dense\)\.", last)
    assert re.match(r"\d tokens, [\d.]+/s \(sparse\)\. Sparse FFNs: 2 on ", last_sparse)


def test_quantize_then_generate(prosparse, texts, tmp_path):
    tiny_llama(hidden_act="relu", hidden_size=64).save_pretrained(tmp_path / "relu")
    byte_tokenizer().save_pretrained(tmp_path / "relu")
    packed = prosparse(
        "quantize", tmp_path / "relu", "--bits", 8, "--data", f"prose={texts['prose']}",
        "--tokens", 256, "--deciding-tokens", 64, "--context-length", 64,
        "--max-perplexity-increase", 10, "--out", tmp_path / "int8",
    )  # fmt: skip
    assert packed.code == 0
    record = read_record(tmp_path / "int8")
    assert "Of 16 linear layers and embeddings, 16 are in 8 bits: the weights shrink" in packed.out
    assert (tmp_path / "int8" / "report.html").is_file()
    assert record.is_within_budget
    generated = prosparse("generate", tmp_path / "int8", "--prompt", "def", "--tokens", 5)
    assert generated.code == 0
    again = prosparse(
        "threshold",
        tmp_path / "int8",
        "--data",
        f"prose={texts['prose']}",
        "--out",
        tmp_path / "int8",
    )
    assert again.code == 2
    assert "--overwrite" in again.complaint


def test_chat_ends_with_an_empty_line(prosparse, checkpoint, monkeypatch):
    answers = iter(["hello", "again", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    result = prosparse("generate", checkpoint, "--chat", "--tokens", 3)
    assert result.code == 0
    assert result.err.count("/s (dense).\n") == 1  # for all turns


def test_train_then_threshold_then_report(prosparse, recipe_file, texts, tmp_path):
    trained = prosparse("train", recipe_file())
    assert trained.code == 0
    for label in ("original", "ReLU, untrained", "stage 0", "stage 1", "stage 2"):
        assert label in trained.out
    assert "threshold section was not applied" in trained.out

    shifted = prosparse(
        "threshold", tmp_path / "run", "--data", f"prose={texts['prose']}", "--tokens", 128,
        "--context-length", 32, "--candidates", "0.001,0.5", "--out", tmp_path / "shifted",
        "--max-perplexity-increase", 10,
    )  # fmt: skip
    assert shifted.code == 0
    assert "Applied t = 0.5: sparsity " in shifted.out
    assert "On text that it was not chosen by: sparsity " in shifted.out
    assert ps.load(tmp_path / "shifted").config.hidden_act == "fatrelu"

    assert prosparse("report", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    both = prosparse("report", tmp_path / "run", tmp_path / "shifted", "--out", tmp_path / "both")
    assert both.out == f"Wrote {tmp_path / 'both' / 'report.html'}\n"


def test_inspect_prints_contexts_and_writes_a_page(prosparse, relu_checkpoint, texts, tmp_path):
    result = prosparse(
        "inspect", relu_checkpoint, "--layer", 1, "--neuron", 5, "--neuron", 6,
        "--data", f"prose={texts['prose']}", "--tokens", 320, "--context-length", 32,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0
    assert "Layer 1, neuron 5\n\n| data set | fires on |" in result.out
    assert result.out.count("  prose: ") == 10
    assert f"Wrote {tmp_path / 'out' / 'report.html'}" in result.out


def test_thresholds_by_layer_checked_on_other_data(prosparse, relu_checkpoint, texts, tmp_path):
    result = prosparse(
        "threshold", relu_checkpoint, "--data", f"prose={texts['prose']}", "--tokens", 128,
        "--context-length", 32, "--method", "cett", "--max-perplexity-increase", 0.1,
        "--check-data", f"code={texts['code']}", "--out", tmp_path / "shifted",
    )  # fmt: skip
    assert result.code == 0
    assert re.search(r"\ncett 0\.\d+ +\d\d\.\d\d % .* within budget", result.out)
    assert " by layer (cett): sparsity " in result.out
    assert "On text that it was not chosen by: sparsity " in result.out
    assert len(ps.load(tmp_path / "shifted").config.hidden_act_param) == 2
    page = (tmp_path / "shifted" / "report.html").read_text()
    assert "Thresholds by layer" in page
    assert "128 tokens of code" in page


def test_sparsify_prints_the_table_and_where_things_are(prosparse, recipe_file, tmp_path):
    result = prosparse("sparsify", recipe_file())
    assert result.code == 0
    rows = [
        line for line in result.out.splitlines() if re.match(r"(original|ReLU|stage|thresh)", line)
    ]
    assert [row.split("  ")[0] for row in rows][:5] == [
        "original", "ReLU, untrained", "stage 0", "stage 1", "stage 2",
    ]  # fmt: skip
    for name in ("model", "record.json", "log.jsonl", "report.html"):
        assert f"{tmp_path / 'run'}/{name}" in result.out
        assert (tmp_path / "run" / name).exists()


def test_fit_prints_numbers_predictions_and_where_the_report_is(prosparse, tmp_path):
    ratios = [0.4 - 0.1 / tokens for tokens in range(1, 9)]
    rows = [f"{i}000000000,{ratio + 1e-4 * (-1) ** i}" for i, ratio in enumerate(ratios, start=1)]
    table = tmp_path / "silu.csv"
    table.write_text("\n".join(["tokens,activation_ratio", *rows]))
    out = tmp_path / "law"
    result = prosparse("fit", table, "--law", "data-silu", "--at", "4,100", "--out", out)
    assert result.code == 0
    assert re.search(r"\| A0 \| 0\.\d+ \| 0\.\d+ to 0\.\d+ \|", result.out)
    assert re.search(r"\| 4 \|.*within the points", result.out)
    assert re.search(r"\| 100 \|.*extrapolation", result.out)
    assert f"Wrote {out}/report.html" in result.out
    wrong = prosparse("fit", table)
    assert wrong.code == 2
    assert wrong.complaint.startswith("silu: The data-relu law says")


def test_interrupt_is_130_and_says_how_to_go_on(prosparse, recipe_file, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("prosparse.pipeline.run.threshold", interrupt)
    path = recipe_file()
    result = prosparse("sparsify", path)
    assert result.code == 130
    assert "--resume" in result.err.splitlines()[-1]
    monkeypatch.undo()
    assert prosparse("sparsify", path).code == 2  # refuses to start over silently


def test_resume_goes_on_without_training_again(prosparse, recipe_file, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    path = recipe_file()
    with monkeypatch.context() as patch:
        patch.setattr("prosparse.pipeline.run.threshold", interrupt)
        assert prosparse("sparsify", path).code == 130
    with monkeypatch.context() as patch:
        patch.setattr("prosparse.training.run.ProSparseTrainer", interrupt)
        assert prosparse("sparsify", path, "--resume").code == 0
    again = prosparse("sparsify", path, "--resume")  # nothing is left to do
    assert again.code == 0
    assert "stage 2" in again.out


def test_predictors_and_export(prosparse, relu_checkpoint, texts, tmp_path):
    text = ("--data", f"prose={texts['prose']}")
    fit = tmp_path / "predictors"
    done = prosparse(
        "predictor", "fit", relu_checkpoint, *text, "--out", fit, "--rows", 256, "--rank", 16,
        "--cut", 0, "--epochs", 1, "--context-length", 32, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "% of the active neurons and predict" in done.out
    judged = prosparse(
        "predictor", "eval", relu_checkpoint, "--predictors", fit, *text, "--tokens", 64,
        "--context-length", 32, "--device", "cpu",
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert "| activation recall |" in judged.out.replace("  ", " ")
    out = tmp_path / "pwri"
    exported = prosparse(
        "export", relu_checkpoint, "--to", "powerinfer", "--predictors", fit, "--out", out
    )
    assert exported.code == 0, exported.err
    assert (out / "llama-relu.powerinfer.gguf").is_file()
    refused = prosparse("export", relu_checkpoint, "--to", "gguf", "--out", tmp_path / "gguf")
    assert refused.code == 2
    assert "computes SiLU" in refused.err


@pytest.mark.parametrize("verb", ["fit", "eval"])
def test_help_of_predictors_shows_an_example(prosparse, verb):
    result = prosparse("predictor", verb, "--help")
    assert result.code == 0
    assert re.search(rf"Example:\s*prosparse predictor {verb} ", result.out)
