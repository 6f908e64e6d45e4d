# SPDX-License-Identifier: Apache-2.0
"""The whole line on the tiny model: what it leaves, and how it goes on after a stop."""

import dataclasses
import json

import pytest
import torch

import prosparse as ps
from prosparse.model.relufy import activation_of
from prosparse.pipeline import run
from prosparse.records.codec import decode
from prosparse.records.files import read_record
from prosparse.records.run import SparsifyRecord
from prosparse.records.sparsity import Activation
from prosparse.training.recipe import Recipe
from prosparse.training.recipe_file import load_recipe
from prosparse.training.workspace import Interrupted

TRAINER = "prosparse.training.run.ProSparseTrainer"
LABELS = ["original", "ReLU, untrained", "stage 0", "stage 1", "stage 2"]


@pytest.fixture
def recipe(recipe_data) -> Recipe:
    return decode(Recipe, recipe_data, "recipe.yaml")


def without_times(record: SparsifyRecord) -> dict:
    """Return what must be the same however often the line was interrupted."""
    return {
        "milestones": record.milestones,
        "candidates": record.threshold.candidates,
        "chosen": record.threshold.chosen,
        "text": record.sample.text,
    }


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_the_line_from_end_to_end(recipe, tmp_path):
    milestones, candidates, pieces = [], [], []
    record = ps.sparsify(
        recipe,
        on_milestone=milestones.append,
        on_candidate=candidates.append,
        on_text=pieces.append,
        progress=False,
    )
    out = tmp_path / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "log.jsonl",
        "model",
        "recipe.yaml",
        "record.json",
        "report.html",
        "report.json",
        "report.md",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert read_record(out) == record
    assert load_recipe(out / "recipe.yaml") == recipe
    assert len((out / "log.jsonl").read_text().splitlines()) == 6

    chosen = record.threshold.chosen
    assert [m.label for m in record.milestones] == [*LABELS, f"threshold {chosen:g}"]
    assert [m.step for m in record.milestones] == [0, 0, 2, 4, 6, 6]
    assert [m.factor for m in record.milestones] == pytest.approx([0, 0, 0, 0.1, 1.0, 1.0])
    assert record.milestones[0].activation == Activation("silu")
    assert {m.activation.name for m in record.milestones[1:-1]} == {"relu"}
    assert tuple(milestones) == record.milestones
    assert tuple(candidates) == record.threshold.candidates
    assert "".join(pieces) == record.sample.text
    assert record.threshold == read_record(out / "model")


def test_the_model_it_leaves(recipe, texts, tmp_path):
    record = ps.sparsify(recipe, progress=False)
    folder = tmp_path / "run" / "model"
    last = record.milestones[-1]
    assert activation_of(ps.load(folder)) == last.activation
    measured = ps.measure(
        folder, texts, tokens=128, context_length=32, precision="float32", progress=False
    )
    assert measured.sparsity == pytest.approx(last.sparsity, abs=1e-9)
    card = (folder / "README.md").read_text()
    assert f"from `{recipe.model}`" in card
    assert "\n1. Trained for 384 tokens in 6 steps of 64" in card
    assert ", on prose (`prose.jsonl`), code (`code.jsonl`)." in card
    assert "\n2. Shifting the threshold" in card or "\n2. No threshold tried" in card
    assert record.threshold.model == recipe.model
    config = json.loads((folder / "config.json").read_text())
    assert str(tmp_path) not in json.dumps(config)


def test_stopped_after_training_it_goes_on_without_training_again(recipe, tmp_path, monkeypatch):
    whole = ps.sparsify(dataclasses.replace(recipe, out=str(tmp_path / "whole")), progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(run, "threshold", interrupt)
        with pytest.raises(Interrupted, match="same command with --resume goes on"):
            ps.sparsify(recipe, progress=False)
    unfinished = tmp_path / "run.unfinished"
    assert (unfinished / "trained" / "record.json").is_file()
    assert not (tmp_path / "run").exists()
    seconds = float((unfinished / "elapsed.txt").read_text())

    monkeypatch.setattr(TRAINER, pytest.fail)
    told = []
    record = ps.sparsify(recipe, resume=True, on_milestone=told.append, progress=False)
    assert without_times(record) == without_times(whole)
    assert tuple(told) == record.milestones
    assert record.seconds > seconds
    assert not unfinished.exists()
    names = [sorted(p.name for p in (tmp_path / f).iterdir()) for f in ("run", "whole")]
    assert names[0] == names[1]


@pytest.mark.parametrize("station", ["generate", "report", "write_record"])
def test_stopped_after_the_threshold_it_goes_on_from_there(station, recipe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, station, interrupt)
        with pytest.raises(Interrupted):
            ps.sparsify(recipe, progress=False)
    monkeypatch.setattr(TRAINER, pytest.fail)
    monkeypatch.setattr(run, "threshold", pytest.fail)
    candidates = []
    record = ps.sparsify(recipe, resume=True, on_candidate=candidates.append, progress=False)
    assert tuple(candidates) == record.threshold.candidates


def test_a_finished_line_is_only_told_again(recipe, monkeypatch):
    record = ps.sparsify(recipe, progress=False)
    monkeypatch.setattr(run, "train", pytest.fail)
    told = []
    assert ps.sparsify(recipe, resume=True, on_milestone=told.append, progress=False) == record
    assert tuple(told) == record.milestones


def test_no_candidate_within_the_budget_ends_in_plain_relu(recipe_data, tmp_path):
    recipe_data["threshold"] = {"candidates": [50.0], "max_perplexity_increase": 0}
    recipe_data["sample"] = None
    record = ps.sparsify(decode(Recipe, recipe_data, "recipe.yaml"), progress=False)
    last = record.milestones[-1]
    assert (last.label, last.activation) == ("threshold 0", Activation("relu"))
    assert last.sparsity == pytest.approx(record.milestones[-2].sparsity)
    assert record.sample is None
    assert activation_of(ps.load(tmp_path / "run" / "model")) == Activation("relu")


def test_the_same_recipe_makes_the_same_model(recipe, tmp_path):
    again = dataclasses.replace(recipe, out=str(tmp_path / "again"))
    assert without_times(ps.sparsify(recipe, progress=False)) == without_times(
        ps.sparsify(again, progress=False)
    )
    first, second = (ps.load(tmp_path / name / "model") for name in ("run", "again"))
    weights = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("section", ["measure", "threshold"])
def test_a_recipe_for_training_only_is_refused(section, recipe):
    changes = {"threshold": None, section: None}
    with pytest.raises(ps.UserError, match="needs 'measure' and 'threshold' sections"):
        ps.sparsify(dataclasses.replace(recipe, **changes), progress=False)


def test_what_is_known_at_once_leaves_no_folder_behind(recipe, tmp_path):
    missing = dataclasses.replace(recipe, model=str(tmp_path / "no model"))
    with pytest.raises(ps.UserError, match="No model at"):
        ps.sparsify(missing, progress=False)
    with pytest.raises(ps.UserError, match="Device 'toaster'"):
        ps.sparsify(recipe, device="toaster", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_line_is_neither_overwritten_nor_resumed_unasked(recipe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, "train", interrupt)
        with pytest.raises(Interrupted):
            ps.sparsify(recipe, progress=False)
    with pytest.raises(ps.UserError, match="An unfinished run is in .*--resume.*--overwrite"):
        ps.sparsify(recipe, progress=False)
