# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prosparse.records.codec import decode
from prosparse.training.arguments import training_arguments
from prosparse.training.recipe import Recipe


@pytest.fixture
def arguments(plain_data, tmp_path):
    """Return the arguments of the tiny recipe with some of its training section changed."""

    def arguments(device="cpu", precision="float32", **changes):
        plain_data["training"] = {**plain_data["training"], **changes}
        recipe = decode(Recipe, plain_data, "recipe.yaml")
        return training_arguments(recipe, tmp_path / "checkpoints", device, precision)

    return arguments


def test_the_run_ends_with_its_last_stage(arguments):
    assert arguments().max_steps == 6


def test_a_data_set_that_is_its_own_order_is_read_in_order(arguments):
    assert arguments().train_sampling_strategy == "sequential"


def test_the_learning_rate_follows_a_cosine_to_the_given_share(arguments):
    made = arguments(final_learning_rate_ratio=0.25, warmup_steps=3)
    assert made.lr_scheduler_type == "cosine_with_min_lr"
    assert made.lr_scheduler_kwargs == {"min_lr_rate": 0.25}
    assert made.warmup_steps == 3


def test_precision_is_autocast(arguments):
    assert not arguments().bf16
    assert arguments(precision="bfloat16").bf16


def test_several_gpus_in_one_process_are_never_wrapped_in_data_parallel(arguments, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made = arguments(device="cuda", micro_batch_size=4)
    assert made.n_gpu <= 1
    assert made.train_batch_size == 4
