# SPDX-License-Identifier: Apache-2.0
"""The runs of recipes/frontier can be compared: they differ in what they are about alone."""

import dataclasses
from pathlib import Path

import pytest

from prosparse.training.dry_run import dry_run
from prosparse.training.recipe_file import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
FRONTIER = {path.stem: path for path in sorted((RECIPES / "frontier").glob("*.yaml"))}
METHODS = {
    "dense", "vanilla-relu", "shifted-relu",
    *(f"{method}-{factor}" for method in ("fixed-l1", "prosparse") for factor in (1, 3, 8)),
}  # fmt: skip


def test_every_baseline_has_its_recipe():
    assert set(FRONTIER) == METHODS


@pytest.mark.parametrize("name", FRONTIER)
def test_the_same_tokens_in_the_same_order_and_the_same_held_out_text(name):
    recipe, control = load_recipe(FRONTIER[name]), load_recipe(FRONTIER["dense"])
    assert recipe.data == control.data
    assert recipe.measure == control.measure
    training = dataclasses.replace(recipe.training, max_loss_rise=control.training.max_loss_rise)
    assert training == control.training
    assert (recipe.model, recipe.out) == (control.model, f"runs/frontier/{name}")
    plan = dry_run(FRONTIER[name], tokens_per_second=225_000)
    assert plan.num_tokens == 3072 * 32_768 >= 100e6
    assert plan.seconds < 460


def test_what_each_is_about():
    recipes = {name: load_recipe(path) for name, path in FRONTIER.items()}
    assert recipes["dense"].relufy is None
    assert recipes["vanilla-relu"].relufy.chosen().name == "relu"
    assert recipes["shifted-relu"].relufy.chosen().param == 0.1
    for name in ("dense", "vanilla-relu", "shifted-relu"):
        assert [stage.factor for stage in recipes[name].regularization.stages] == [0]
        assert recipes[name].threshold is None
    for factor in (1, 3, 8):
        fixed = recipes[f"fixed-l1-{factor}"].regularization.stages
        progressive = recipes[f"prosparse-{factor}"].regularization.stages
        assert [stage.factor for stage in fixed] == [0, factor]
        assert progressive[-1].factor == progressive[-2].factor == factor
        assert progressive[0] == fixed[0]  # stage 0 is the same
        assert progressive[1].factor == 0.1
        assert recipes[f"fixed-l1-{factor}"].threshold == recipes[f"prosparse-{factor}"].threshold


def test_our_own_recipe_has_the_same_tokens_order_and_held_out_text():
    path = RECIPES / "prosparse-plus.yaml"
    recipe, control = load_recipe(path), load_recipe(FRONTIER["dense"])
    assert (recipe.model, recipe.data) == (control.model, control.data)
    assert dataclasses.replace(recipe.measure, every=None) == control.measure
    assert (recipe.training.seed, recipe.training.compile) == (control.training.seed, True)
    plan, reference = dry_run(path), dry_run(FRONTIER["dense"])
    assert plan.num_tokens == reference.num_tokens
    assert plan.tokens_per_step <= 32_768
    # Each choice of ours says that it is not the paper's, or what it departs from.
    text = path.read_text()
    for choice in ("relufy", "distillation"):
        before, _, after = text.partition(f"\n{choice}:")
        nearby = before.splitlines()[-4:] + after.splitlines()[:2]
        assert any("Not the paper's" in line for line in nearby), choice


ABLATIONS = sorted((RECIPES / "ablations").glob("*.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_one_thing(path):
    name = path.stem
    base = "frontier/dense.yaml" if name.startswith("dense") else "prosparse-plus.yaml"
    recipe, base = load_recipe(path), load_recipe(RECIPES / base)
    changed = {
        field.name
        for field in dataclasses.fields(recipe)
        if getattr(recipe, field.name) != getattr(base, field.name)
    } - {"out"}
    expected = {
        "plus-without-teacher": {"distillation"},
        "plus-without-threshold": {"relufy", "regularization"},
        "plus-at-6e-4": {"training"},
        "dense-at-1e-3": {"training"},
    }
    assert changed == expected[name]
    assert recipe.out == f"runs/ablations/{name}"
    assert dry_run(path).num_tokens == dry_run(FRONTIER["dense"]).num_tokens
