# SPDX-License-Identifier: Apache-2.0
"""`prosparse train --dry-run` tells, and touches nothing."""


def test_it_tells_stages_tokens_memory_and_time(prosparse, recipe_file, tmp_path):
    path = recipe_file()
    before = sorted(tmp_path.rglob("*"))
    result = prosparse("train", path, "--dry-run", "--gpus", 2, "--tokens-per-second", 100)
    assert result.code == 0, result.err
    assert sorted(tmp_path.rglob("*")) == before
    lines = result.out.splitlines()
    assert "2 layers, d_model 32, d_ff 48" in lines[0]
    assert lines[1].split() == ["stage", "steps", "until", "tokens", "lambda", "c"]
    assert lines[3].startswith("stage 0")
    assert "tokens a step on 2 GPUs" in result.out
    assert "GB for weights, gradients and optimizer" in result.out
    assert "Time at that throughput: " in result.out


def test_options_of_the_dry_run_alone_are_refused(prosparse, recipe_file):
    result = prosparse("train", recipe_file(), "--gpus", 2)
    assert result.code == 2
    assert "go with --dry-run" in result.complaint


def test_a_steered_stage_is_told(prosparse, recipe_file):
    steer = ("--set", "regularization.target_sparsity=0.8", "--set", "measure.every=2")
    result = prosparse("train", recipe_file(), "--dry-run", *steer)
    assert result.code == 0, result.err
    assert "The last stage steers to 80.0 % sparsity" in result.out
