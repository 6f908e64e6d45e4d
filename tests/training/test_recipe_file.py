# SPDX-License-Identifier: Apache-2.0
"""Recipes that change another one."""

from pathlib import Path

import pytest
import yaml

from prosparse.errors import UserError
from prosparse.training.recipe_file import load_recipe
from tests.training.test_recipe import MEASURE, REQUIRED


@pytest.fixture
def write(tmp_path):
    """Write a recipe to a file of its own."""

    def write(name: str, data: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(data))
        return path

    return write


def test_a_recipe_changes_its_base_key_by_key(write):
    write("base.yaml", {**REQUIRED, "measure": MEASURE, "threshold": {}})
    write("sub/middle.yaml", {"base": "../base.yaml", "training": {"seed": 3}, "out": "middle"})
    changes = {
        "base": "middle.yaml",
        "training": {"warmup_steps": 5},
        "data": {"components": {"code": {"path": "code.jsonl"}}},
        "threshold": None,
    }
    recipe = load_recipe(write("sub/top.yaml", changes), ["training.seed=4"])
    assert recipe.out == "middle"
    assert (recipe.training.learning_rate, recipe.training.warmup_steps) == (1e-4, 5)
    assert recipe.training.seed == 4
    assert list(recipe.data.components) == ["code"]  # a value is replaced whole
    assert recipe.measure is not None
    assert recipe.threshold is None


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("none.yaml", "No recipe at .*none.yaml, which .*top.yaml names as its base"),
        ("top.yaml", "top.yaml is its own base"),
        (3, "base must be the name of a recipe file; found 3"),
        ("list.yaml", "list.yaml is no recipe"),
    ],
)
def test_a_base_that_is_none_is_named(write, base, message):
    write("list.yaml", [1])
    with pytest.raises(UserError, match=message):
        load_recipe(write("top.yaml", {"base": base}))
