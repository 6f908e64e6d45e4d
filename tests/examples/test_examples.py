# SPDX-License-Identifier: Apache-2.0
"""Every example runs as its docstring says, each on what the one before it wrote."""

import runpy
import sys
from pathlib import Path

import pytest

from prosparse.training.recipe_file import load_recipe
from tests.conftest import byte_tokenizer, tiny_llama
from tests.laws.runs import folders, make_record, points

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBERED = sorted(EXAMPLES.glob("[0-9]*.py"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example in this process with these arguments; return what it printed."""

    def run(name: str, *arguments: object) -> str:
        path = EXAMPLES / name
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_line_in_order(run, checkpoint, texts, tmp_path):
    prose, code = texts["prose"], texts["code"]
    relu, trained, shifted = tmp_path / "relu", tmp_path / "trained", tmp_path / "shifted"

    assert "silu became relu in 2 FFNs of 48 neurons" in run(
        "01_relufy.py", checkpoint, prose, relu
    )

    printed = run("02_train.py", checkpoint, prose, code, trained)
    rows = [line for line in printed.splitlines() if "lambda" in line and "step" in line]
    assert [row[:16].strip() for row in rows] == [
        "original", "ReLU, untrained", "stage 0", "stage 1", "stage 2",
    ]  # fmt: skip
    assert (trained / "log.jsonl").is_file()

    assert "Chosen: " in run("03_threshold.py", trained, code, shifted)

    printed = run("04_measure.py", shifted, f"prose={prose}", f"code={code}")
    assert "on 2,048 tokens in windows of 128" in printed
    assert printed.count("layer ") == 2

    printed = run("05_generate.py", shifted, "def add_1(x):")
    assert printed.count("] def add_1(x):") == 3

    printed = run("06_accelerate.py", shifted, "def add_1(x):")
    assert "the same text" in printed
    assert "Sparse FFNs: 2 on " in printed


def test_the_training_example_goes_on_where_it_was_stopped(
    run, checkpoint, texts, tmp_path, monkeypatch
):
    arguments = (checkpoint, texts["prose"], texts["code"], tmp_path / "trained")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("prosparse.training.run.save", stop)
        with pytest.raises(KeyboardInterrupt):
            run("02_train.py", *arguments)
    assert not (tmp_path / "trained").exists()

    printed = run("02_train.py", *arguments)
    assert "20,480 tokens" in printed
    assert run("02_train.py", *arguments) == printed  # it is done: the same is told again


def test_four_bits_where_a_text_shows_it_bears_them(run, texts, tmp_path):
    tiny_llama(hidden_act="relu", hidden_size=64).save_pretrained(tmp_path / "relu")
    byte_tokenizer().save_pretrained(tmp_path / "relu")
    text = f"prose={texts['prose']}"
    printed = run("07_quantize.py", tmp_path / "relu", text, tmp_path / "int4")
    assert "layers in 4 bits" in printed
    assert "% of what they were, perplexity " in printed
    assert (tmp_path / "int4" / "record.json").is_file()


def test_a_lambda_from_finished_runs(run, tmp_path):
    runs = folders(tmp_path, make_record("model"), points())
    printed = run("08_plan.py", 0.85, *runs)
    assert "run0: lambda 0.01" in printed
    assert "95 % confidence: " in printed


def test_a_law_of_data_from_a_run(run):
    folder = EXAMPLES.parent / "benchmarks/results/relufication_h100_2026-11-23"
    printed = run("09_fit.py", "stage 0", 10, folder)
    assert "from 71 points of training batches (the log), stage 0" in printed
    assert "At 10 billion tokens, beyond the points: 0.32" in printed


def test_how_sparse_a_dense_model_is(run, checkpoint, texts):
    printed = run("10_how_sparse.py", checkpoint, f"prose={texts['prose']}")
    assert "(silu): " in printed
    assert "of its FFN activations can be left out at " in printed
    assert printed.count("needed by k tokens together: 1: ") == 2


def test_which_text_fires_a_neuron(run, relu_checkpoint, texts):
    text = f"prose={texts['prose']}"
    printed = run("11_which_text.py", relu_checkpoint, 1, 5, text)
    assert "layer 1, neuron 5 fires on " in printed
    assert printed.count("  ...") == 5
    rarest = run("11_which_text.py", relu_checkpoint, 1, "rarest", text)
    assert rarest.count("layer 1, neuron ") == 5


def test_which_run_is_better(run, tmp_path):
    results = EXAMPLES.parent / "benchmarks/results"
    runs = results / "relufication_h100_2026-11-23", results / "demo_cpu_2026-11-23"
    printed = run("12_which_run.py", tmp_path / "out", *runs)
    assert "Of 2 runs relufication_h100_2026-11-23 is the sparsest" in printed
    assert "- Windows of different length, so perplexities do not compare: 1,024 in" in printed
    assert (tmp_path / "out" / "report.html").is_file()


def test_which_thresholds_a_budget_allows(run, relu_checkpoint, texts, tmp_path):
    printed = run("13_thresholds.py", relu_checkpoint, texts["prose"], tmp_path / "out")
    assert "    fixed: sparsity " in printed
    assert printed.count("t = ") == 2
    assert "Chosen: " in printed
    with pytest.raises(SystemExit, match=r"python examples/13_thresholds.py "):
        run("13_thresholds.py")


def test_whether_sparsity_cost_quality(run, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    from tests.evaluation.conftest import write_items

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, activation in (("dense", "silu"), ("sparse", "relu")):
        model = tiny_llama(hidden_act=activation, max_position_embeddings=1024)
        model.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
    items = write_items(tmp_path / "items")
    models = tmp_path / "dense", tmp_path / "sparse"
    printed = run("14_did_it_cost_quality.py", *models, items, tmp_path / "out")
    assert "dense, 0.0% of its FFN activations zero: PIQA " in printed
    assert "Commonsense Reasoning: " in printed
    assert (tmp_path / "out" / "tables.tex").is_file()


def test_predictors_from_fit_to_powerinfer(run, relu_checkpoint, texts, tmp_path):
    printed = run("15_predictors.py", relu_checkpoint, texts["prose"], tmp_path)
    assert printed.count("of the active neurons found") == 2
    assert "Predicted FFNs: 2 on " in printed
    assert "For PowerInfer: llama-relu.powerinfer.gguf" in printed
    assert (tmp_path / "powerinfer" / "llama-relu.powerinfer.gguf").is_file()


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.name)
def test_without_arguments_the_usage_is_printed(run, path):
    with pytest.raises(SystemExit, match=rf"python examples/{path.name} "):
        run(path.name)


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.name)
def test_examples_are_short_and_use_the_public_interface_only(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
    assert "import prosparse as ps" in source
    assert "from prosparse" not in source
    assert "prosparse." not in source.replace("import prosparse as ps", "")


def test_the_recipe_of_the_training_example_is_whole():
    recipe = load_recipe(EXAMPLES / "02_train.yaml")
    assert [stage.factor for stage in recipe.regularization.stages] == [0, 0.3, 3]


def test_a_server_answers(run, relu_checkpoint):
    for package in ("fastapi", "uvicorn", "openai", "prometheus_client"):
        pytest.importorskip(package)
    printed = run("16_serve.py", relu_checkpoint, "def add_1(x):")
    assert printed.startswith("def add_1(x):")
    assert 'prosparse_ffn_calls_total{path="sparse"}' in printed
