# SPDX-License-Identifier: Apache-2.0
"""Two processes train as one does, sharded or not, and a run goes on where and how it can.

FSDP2 runs over gloo on the CPU here: the same code as on GPUs, but for the device.
"""

import copy
import shutil

import pytest

from prosparse.records.files import read_record
from prosparse.training.checkpoints import newest_first
from prosparse.training.trainer import ProSparseTrainer
from tests.conftest import byte_tokenizer, tiny_llama

pytestmark = pytest.mark.invariant


def options_of(sharding: str) -> list[str]:
    return ["--sharded"] if sharding == "full" else []


@pytest.fixture
def data(plain_data) -> dict:
    """Eight samples a step on any number of processes, and a checkpoint at every second one."""
    plain_data["training"].update(samples_per_step=8, micro_batch_size=2)
    return plain_data


@pytest.fixture
def whole(run, data):
    """The run of one process, undisturbed and not sharded."""
    undisturbed = copy.deepcopy(data)
    undisturbed["out"] += "-whole"
    return run(undisturbed)


@pytest.mark.slow
def test_sharded_is_one_process(run, run_on_two, recipe_data, tmp_path):
    """With accumulation, recomputation, tied embeddings and the fused operator."""
    tied = tmp_path / "tied"
    tiny_llama(tie_word_embeddings=True).save_pretrained(tied)
    byte_tokenizer().save_pretrained(tied)
    recipe_data["model"] = str(tied)
    recipe_data["training"].update(samples_per_step=8, micro_batch_size=2)
    one = run({**copy.deepcopy(recipe_data), "out": recipe_data["out"] + "-one"})
    recipe_data["training"].update(sharding="full", gradient_checkpointing=True)
    two = run_on_two(recipe_data, "--sharded", "--fused")
    two.assert_close(one)
    mine, theirs = read_record(two.folder).milestones, one.record.milestones
    assert [m.label for m in mine] == [m.label for m in theirs]
    for measured, expected in zip(mine, theirs, strict=True):
        assert measured.sparsity == pytest.approx(expected.sparsity, abs=1e-3)
        assert measured.data[0].loss == pytest.approx(expected.data[0].loss, rel=1e-5)


@pytest.mark.slow
def test_sharded_and_compiled_is_one_process(run_on_two, data, whole):
    data["training"].update(sharding="full", gradient_checkpointing=True, compile=True)
    run_on_two(data, "--sharded", "--compiled", "--fused").assert_close(whole)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_one_of_two_is_killed_and_the_run_goes_on(run, run_on_two, data, whole, sharding, tmp_path):
    """On two processes again, and on one, to what it would have been."""
    data["training"]["sharding"] = sharding
    killed = run_on_two(data, *options_of(sharding), "--die-after", "5", code=1)
    unfinished, kept = tmp_path / "run.unfinished", tmp_path / "kept"
    assert newest_first(unfinished / "checkpoints")
    shutil.copytree(unfinished, kept)
    run(data, resume=True).assert_close(whole)

    killed.folder.rename(tmp_path / "on-one")
    kept.rename(unfinished)
    run_on_two(data, *options_of(sharding), "--resume").assert_close(whole)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_one_process_is_stopped_and_two_go_on(run, run_on_two, data, whole, sharding, monkeypatch):
    def stop(trainer, *args):
        if trainer.state.global_step == 5:
            raise KeyboardInterrupt
        return fetch(trainer, *args)

    data["training"]["sharding"] = sharding
    fetch = ProSparseTrainer.get_batch_samples
    monkeypatch.setattr(ProSparseTrainer, "get_batch_samples", stop)
    with pytest.raises(KeyboardInterrupt):
        run(data)
    monkeypatch.undo()
    run_on_two(data, *options_of(sharding), "--resume").assert_close(whole)
