# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks for, against the paper's own tables and against a real run."""

import json
from dataclasses import replace

import pytest

import prosparse as ps
from prosparse.model.checkpoint import load, skeleton
from prosparse.records.codec import decode
from prosparse.training.dry_run import dry_run
from prosparse.training.recipe import Recipe

SHAPES = {
    "llama2-7b": (4096, 11008, 32, 32, 32000, False),
    "llama2-13b": (5120, 13824, 40, 40, 32000, False),
    "minicpm-1b": (1536, 3840, 52, 24, 73440, True),
}
# Tables 6 and 7: samples of 4,096 tokens in a step, (T_i, lambda_i, accumulated tokens in billions).
TABLES = {
    "llama2-7b": (
        512,
        [(5000, 0, 10.49), (6000, 5e-3, 12.58), (10000, 5e-2, 20.97), (12000, 5e-2, 25.17),
         (16000, 2e-1, 33.55), (16500, 2e-1, 34.60)],
    ),
    "llama2-13b": (
        2048,
        [(5500, 0, 46.14), (6750, 5e-3, 56.62), (10750, 1e-2, 90.18), (11000, 1e-2, 92.27),
         (15000, 2e-2, 125.83), (16000, 2e-2, 134.22)],
    ),
    "minicpm-1b": (  # without SFT, which has another batch size and so is a run of its own
        1200,
        [(10000, 0, 49.15), (15000, 1e-3, 73.73), (20000, 5e-3, 98.30), (25000, 5e-3, 122.88),
         (35000, 5e-2, 172.03), (95000, 5e-2, 466.94)],
    ),
}  # fmt: skip


def model_folder(folder, shape):
    d_model, d_ff, layers, heads, vocabulary, tied = SHAPES[shape]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": d_model, "intermediate_size": d_ff, "num_hidden_layers": layers,
        "num_attention_heads": heads, "vocab_size": vocabulary, "tie_word_embeddings": tied,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def recipe(model, samples, stages):
    return decode(
        Recipe,
        {
            "model": str(model),
            "out": "nowhere",
            "data": {"components": {"text": {"path": "nowhere.jsonl"}}},
            "training": {"learning_rate": 3e-5, "gradient_accumulation": samples // 8},
            "regularization": {"stages": [{"until": t, "factor": f} for t, f, _ in stages]},
        },
        "here",
    )


@pytest.mark.parametrize("shape", TABLES)
def test_the_papers_tables_come_out(shape, tmp_path):
    samples, stages = TABLES[shape]
    plan = dry_run(
        recipe(model_folder(tmp_path, shape), samples, stages),
        num_devices=8,
        tokens_per_second=5000,
    )
    assert plan.tokens_per_step == samples * 4096
    for found, (until, factor, billions) in zip(plan.stages, stages, strict=True):
        assert (found.until, found.factor) == (until, factor)
        assert found.num_tokens / 1e9 == pytest.approx(billions, abs=0.006)
        assert found.coefficient == pytest.approx(factor / plan.d_ff)
    assert sum(stage.num_steps for stage in plan.stages) == stages[-1][0]
    assert plan.stages[2].start_factor == stages[1][1]  # it rises from the warm-up's
    assert plan.stages[1].start_factor == stages[1][1]  # which is flat
    assert plan.seconds == pytest.approx(plan.num_tokens / 40000)


def test_memory_of_a_7b_model(tmp_path):
    samples, stages = TABLES["llama2-7b"]
    plan = dry_run(recipe(model_folder(tmp_path, "llama2-7b"), samples, stages))
    assert plan.num_parameters == 6_738_415_616  # as published
    assert plan.state_bytes == 16 * plan.num_parameters
    assert plan.logit_bytes == 4096 * 32000 * 8
    assert plan.seconds is None


def test_memory_of_a_7b_model_that_is_sharded(tmp_path):
    samples, stages = TABLES["llama2-7b"]
    plan = recipe(model_folder(tmp_path, "llama2-7b"), samples, stages)
    plan = replace(plan, training=replace(plan.training, sharding="full"))
    one, two, eight = (dry_run(plan, num_devices=n) for n in (1, 2, 8))
    assert one.state_bytes == 16 * one.num_parameters
    assert two.state_bytes == 8 * one.num_parameters
    assert eight.state_bytes == 2 * one.num_parameters
    assert eight.load_bytes == 4 * one.num_parameters  # every GPU loads all of them first
    assert eight.checkpoint_bytes == one.checkpoint_bytes


def test_disk_of_hub_data_and_checkpoints(tmp_path, recipe_data):
    recipe_data.update(model="some/model", architecture="llama2-7b")
    components = recipe_data["data"]["components"]
    components["prose"]["weight"] = components["code"]["weight"] = 1
    of_files = dry_run(decode(Recipe, recipe_data, "here"))
    assert of_files.token_bytes == 0
    components["code"]["path"] = "some/data"
    half = dry_run(decode(Recipe, recipe_data, "here"))
    assert half.token_bytes == half.num_tokens / 2 * 2  # two bytes a token, 32,000 words
    for component in components.values():
        del component["weight"]
    assert dry_run(decode(Recipe, recipe_data, "here")).token_bytes == half.num_tokens * 2
    assert half.checkpoint_bytes == 3 * 12 * half.num_parameters
    recipe_data["architecture"] = "minicpm-1b"  # 73,440 words
    assert dry_run(decode(Recipe, recipe_data, "here")).token_bytes == half.num_tokens * 4


def test_a_model_that_is_here_goes_before_the_architecture_of_its_recipe(recipe_data):
    recipe_data["architecture"] = "llama2-7b"
    assert dry_run(decode(Recipe, recipe_data, "here")).d_ff == 48


def test_it_counts_what_a_run_counts(recipe_data):
    of_six_steps = decode(Recipe, recipe_data, "here")
    plan = dry_run(of_six_steps)
    record = ps.train(of_six_steps, device="cpu", progress=False)
    assert plan.num_tokens == record.num_tokens
    assert plan.stages[-1].until == 6


def test_a_skeleton_has_no_weights_and_every_shape(checkpoint):
    bones, model = skeleton(checkpoint), load(checkpoint)
    assert {p.device.type for p in bones.parameters()} == {"meta"}
    assert [p.shape for p in bones.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_devices": 0}, "--gpus must be at least 1; found 0"),
        ({"tokens_per_second": 0.0}, "--tokens-per-second must be > 0; found 0"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ps.UserError, match=words):
        dry_run("recipes/demo.yaml", **options)


def test_a_teacher_is_held_too(recipe_data):
    plain = dry_run(decode(Recipe, recipe_data, "here"))
    taught = dry_run(decode(Recipe, {**recipe_data, "distillation": {}}, "here"))
    assert taught.state_bytes == plain.state_bytes + 4 * plain.num_parameters
    recipe_data["training"]["precision"] = "bfloat16"
    halved = dry_run(decode(Recipe, {**recipe_data, "distillation": {}}, "here"))
    assert halved.state_bytes == plain.state_bytes + 2 * plain.num_parameters
