# SPDX-License-Identifier: Apache-2.0
import copy
from pathlib import Path

import pytest
import yaml

from prosparse.errors import UserError
from prosparse.records.codec import decode
from prosparse.training.recipe import Recipe
from prosparse.training.recipe_file import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))

REQUIRED = {
    "model": "some/model",
    "out": "runs/some",
    "data": {"components": {"prose": {"path": "prose.jsonl"}}},
    "training": {"learning_rate": 1e-4},
    "regularization": {"stages": [{"until": 10, "factor": 0}, {"until": 20, "factor": 0.5}]},
}
MEASURE = {"data": {"prose": {"path": "held-out.jsonl"}}}


@pytest.fixture
def load(tmp_path):
    """Load a recipe given as text or data, with overrides."""

    def load(recipe, *overrides):
        path = tmp_path / "my.yaml"
        path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe))
        return load_recipe(path, overrides)

    return load


def changed(place: str, value) -> dict:
    """Return the required recipe with one value set, at a dotted place."""
    data = copy.deepcopy(REQUIRED)
    *parents, last = place.split(".")
    at = data
    for key in parents:
        at = at.setdefault(key, {})
    at[last] = value
    return data


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_parses(path):
    recipe = load_recipe(path)
    assert recipe.regularization.schedule().num_steps > 0


def test_the_repository_has_recipes():
    assert RECIPES


def test_defaults_are_filled_in_and_written_down(load, tmp_path):
    recipe = load(REQUIRED)
    assert recipe.relufy.chosen().name == "relu"
    assert recipe.data.context_length == 4096
    assert recipe.regularization.normalization == "mean"
    assert recipe.tokens_per_micro_batch == 4096
    written = yaml.safe_load(recipe.to_yaml())
    assert written["training"]["beta2"] == 0.95
    assert written["measure"] is None
    assert load(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            changed("training.learning_rat", 1),
            "training.learning_rat is not a known key.*'learning_rate'",
        ),
        (changed("sed", 1), "my.yaml: sed is not a known key"),
        (changed("data.components.prose.paht", "x"), "data.components.prose.paht.*'path'"),
        (changed("regularization.stages", [{"untl": 5}]), r"stages\[0\].untl is not.*'until'"),
        (changed("training.seed", "one"), "training.seed must be a whole number; found 'one'"),
        (changed("training.seed", True), "training.seed must be a whole number; found True"),
        (changed("training.compile", 1), "training.compile must be true or false; found 1"),
        (changed("training.learning_rate", "fast"), "learning_rate must be a number; found 'fast'"),
        (changed("training.precision", "fp16"), "precision must be one of auto, float32, bfloat16"),
        (changed("regularization.stages", {}), "regularization.stages must be a list, found {}"),
        (changed("data.components", ["x"]), "data.components must be a mapping"),
        (
            changed("regularization.stages", [{"until": 5}]),
            r"stages\[0\] lacks the required key 'factor'",
        ),
        (changed("training", {}), "training lacks the required key 'learning_rate'"),
        ({k: v for k, v in REQUIRED.items() if k != "model"}, "lacks the required key 'model'"),
        ("", "my.yaml must be a mapping, found None"),
        ("- a\n- b\n", r"my.yaml must be a mapping, found \['a', 'b'\]"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_key_or_type_is_named_with_its_file_and_place(load, recipe, message):
    with pytest.raises(
        UserError, match=rf"my\.yaml.*{message}" if "my.yaml" not in message else message
    ):
        load(recipe)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            "regularization.stages",
            [{"until": 9, "factor": 0.2}, {"until": 12, "factor": 0.1}],
            r"regularization: stages\[1\].factor decreases",
        ),
        (
            "regularization.stages",
            [{"until": 9, "factor": 0}, {"until": 9, "factor": 0.1}],
            r"regularization: stages\[1\].until is 9",
        ),
        ("regularization.stages", [{"until": 9, "factor": -1}], "regularization: .*found -1"),
        ("regularization.stages", [], "regularization: stages: give at least one"),
        ("regularization.normalization", "summed", "regularization: .*needs reference_tokens"),
        ("regularization.reference_tokens", 4096, "regularization: .*'normalization: summed' only"),
        ("relufy.activation", "silu", "relufy: Unknown activation 'silu'"),
        ("relufy", {"activation": "fatrelu"}, "relufy: fatrelu needs"),
        ("data.context_length", 1, "data: context_length must be at least 2; found 1"),
        ("data.components.prose.weight", 0, "data.components.prose: weight must be greater than 0"),
        ("training.micro_batch_size", 0, "training: micro_batch_size must be at least 1; found 0"),
        ("training.save_every", -5, "training: save_every must be at least 1"),
        ("training.learning_rate", 0, "training: learning_rate must be > 0"),
        ("training.learning_rate", ".nan", "training: learning_rate must be > 0"),
        ("training.warmup_steps", -1, "training: warmup_steps must be >= 0"),
        ("training.max_grad_norm", -1, "training: max_grad_norm must be >= 0"),
        ("training.beta2", 1, "training: beta2 must be >= 0 and < 1"),
        (
            "training.final_learning_rate_ratio",
            10,
            "training: final_learning_rate_ratio must be from 0",
        ),
        (
            "measure",
            {"tokens": 4095, **MEASURE},
            "measure.tokens must be at least one window of 4096 tokens; found 4095",
        ),
        ("threshold", {}, "a 'threshold' section needs a 'measure' section"),
    ],
)
def test_an_impossible_value_is_named_with_its_file_and_section(load, place, value, message):
    value = float("nan") if value == ".nan" else value
    with pytest.raises(UserError, match=rf"my\.yaml: {message}"):
        load(changed(place, value))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"threshold": {"candidates": []}}, "threshold: candidates must be numbers > 0"),
        ({"threshold": {"candidates": [0.1, -0.1]}}, "threshold: candidates must be numbers > 0"),
        ({"threshold": {"max_perplexity_increase": -1}}, "max_perplexity_increase must be >= 0"),
        (
            {"threshold": {}, "relufy": {"activation": "shifted-relu", "bias": 0.1}},
            "a 'threshold' section shifts ReLU",
        ),
        ({"threshold": {}, "relufy": None}, "'relufy' has no activation instead"),
    ],
)
def test_a_threshold_section_is_checked_before_training_not_after(load, sections, message):
    with pytest.raises(UserError, match=message):
        load({**REQUIRED, "measure": MEASURE, **sections})


STEERED = [
    {"until": 10, "factor": 0},
    {"until": 20, "factor": 0.1},
    {"until": 90, "factor": 8},
]


def test_a_target_sparsity_goes_with_held_out_text_and_a_stage_to_steer(load):
    regularization = {"target_sparsity": 0.89, "stages": STEERED}
    recipe = load(
        {**REQUIRED, "measure": {**MEASURE, "every": 5}, "regularization": regularization}
    )
    assert recipe.regularization.controller().target == 0.89
    assert load(REQUIRED).regularization.controller() is None


@pytest.mark.parametrize(
    ("target", "stages", "measure", "message"),
    [
        (89, STEERED, {"every": 5}, "target_sparsity must be between 0 and 1; found 89"),
        (0.8, STEERED, {}, "the recipe needs a 'measure' section with 'every'"),
        (0.8, STEERED[:2], {"every": 5}, r"needs three stages or more.*factors \[0.0, 0.1\]"),
        (0.8, STEERED[1:], {"every": 5}, "needs three stages or more"),
        (0.8, [{"until": 5, "factor": 0}, *STEERED[::2]], {"every": 5}, "then a warm-up"),
        (
            0.8,
            [*STEERED[:2], {**STEERED[2], "fixed": True}],
            {"every": 5},
            "and a fixed last stage",
        ),
    ],
)
def test_a_target_sparsity_that_cannot_be_steered_to(load, target, stages, measure, message):
    regularization = {"target_sparsity": target, "stages": stages}
    recipe = {**REQUIRED, "measure": {**MEASURE, **measure}, "regularization": regularization}
    with pytest.raises(UserError, match=message):
        load(recipe)


def test_numbers_without_a_dot_in_the_mantissa_are_numbers(load):
    # YAML 1.1 reads 5e-3 as text; people write it all the time.
    recipe = load(
        yaml.safe_dump(REQUIRED).replace("0.0001", "5e-3"), "regularization.stages.1.factor=2e-1"
    )
    assert recipe.training.learning_rate == 0.005
    assert recipe.regularization.stages[1].factor == 0.2


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("out=runs/other", lambda r: r.out, "runs/other"),
        ("training.seed=7", lambda r: r.training.seed, 7),
        ("training.compile=true", lambda r: r.training.compile, True),
        ("regularization.stages.0.until=3", lambda r: r.regularization.stages[0].until, 3),
        ("relufy={activation: fatrelu, threshold: 0.01}", lambda r: r.relufy.threshold, 0.01),
        ("measure.data.prose.path=a=b.jsonl", lambda r: r.measure.data["prose"].path, "a=b.jsonl"),
    ],
)
def test_set_changes_one_value(load, override, read, value):
    assert read(load(REQUIRED, override)) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed", "--set takes key.path=value; found 'training.seed'"),
        ("=3", "--set takes key.path=value"),
        (
            "regularization.stages.9.until=3",
            "the recipe has no place 'regularization.stages.9.until'",
        ),
        ("regularization.stages.one.until=3", "the recipe has no place"),
        ("model.name=x", "the recipe has no place 'model.name'"),
        ("training.seed=[", "--set training.seed="),
        ("training.sed=1", "training.sed is not a known key. Did you mean 'seed'"),
        ("training.seed=x", "training.seed must be a whole number"),
    ],
)
def test_set_refuses_what_has_no_place_in_a_recipe(load, override, message):
    with pytest.raises(UserError, match=message):
        load(REQUIRED, override)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="No recipe at .*none.yaml: the file does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_overrides_of_a_recipe_that_is_no_file_are_refused(recipe_data):
    recipe = decode(Recipe, recipe_data, "here")
    assert load_recipe(recipe) is recipe
    with pytest.raises(UserError, match=r"dataclasses\.replace"):
        load_recipe(recipe, ["training.seed=1"])


@pytest.mark.parametrize(("num_devices", "accumulation"), [(1, 6), (2, 3), (6, 1)])
def test_a_step_has_its_samples_on_any_number_of_devices(load, num_devices, accumulation):
    recipe = load(REQUIRED, "training.samples_per_step=12", "training.micro_batch_size=2")
    assert recipe.training.accumulation(num_devices) == accumulation
    assert recipe.tokens_per_step(num_devices) == 12 * 4096


@pytest.mark.parametrize("num_devices", [4, 12])
def test_samples_that_cannot_be_shared_are_refused(load, num_devices):
    recipe = load(REQUIRED, "training.samples_per_step=12", "training.micro_batch_size=2")
    with pytest.raises(UserError, match=r"samples_per_step 12 is no multiple of"):
        recipe.tokens_per_step(num_devices)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["training.samples_per_step=8", "training.gradient_accumulation=2"],
            "give gradient_accumulation or samples_per_step, not both",
        ),
        (["training.samples_per_step=0"], "samples_per_step 0 is no multiple of 1"),
        (["architecture=gpt-5"], "architecture must be one of llama2-7b, .*; found 'gpt-5'"),
        (["data.loss=answers"], "components.prose does not tell"),
        (["data.components.prose.prompt=x"], "'prompt' and 'answer' go together"),
    ],
)
def test_keys_that_do_not_fit_each_other(load, overrides, message):
    with pytest.raises(UserError, match=message):
        load(REQUIRED, *overrides)
