# SPDX-License-Identifier: Apache-2.0
"""A full disk at any point of a checkpoint leaves none that a resume would take for whole."""

import copy
import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, TrainerState

from prosparse.errors import UserError
from prosparse.training import checkpoints
from prosparse.training import run as run_module
from prosparse.training.checkpoints import newest_first, publish, staging, told_when_unwritten

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# What torch.save says when the disk is full.
UNWRITTEN_ARCHIVE = RuntimeError(
    "[enforce fail at inline_container.cc:672] . unexpected pos 5 vs 3"
)
UNWRITTEN_WEIGHTS = SafetensorError("Error while serializing: I/O error: No space left on device")
# The place that fails, what it raises, and which call of it: the second checkpoint, after step 4.
POINTS = {
    "weights": (PreTrainedModel, "save_pretrained", UNWRITTEN_WEIGHTS, 2),
    "optimizer": (torch, "save", UNWRITTEN_ARCHIVE, 6),
    "random state": (torch, "save", UNWRITTEN_ARCHIVE, 8),
    "trainer state": (TrainerState, "save_to_json", FULL, 2),
    "waiting for the disk": (checkpoints, "_sync", FULL, 15),
    "taking its name": (checkpoints, "put_in_place", FULL, 2),
}


@pytest.fixture
def fill_disk(monkeypatch):
    """Let call number `nth` of a function fail half way; return the calls made so far."""

    def fill_disk(place, name: str, error: Exception, nth: int) -> list[str]:
        original, calls = getattr(place, name), []

        def failing(*args, **kwargs):
            calls.append(name)
            if len(calls) < nth:
                return original(*args, **kwargs)
            half = next((a for a in args if isinstance(a, str)), None)
            if half is not None:
                path = Path(half) / "half" if Path(half).is_dir() else Path(half)
                path.write_bytes(b"half")
            raise error

        monkeypatch.setattr(place, name, failing)
        return calls

    return fill_disk


@pytest.fixture(scope="module")
def kept() -> dict:
    return {}


@pytest.fixture
def whole(run, plain_data, kept, tmp_path_factory):
    """The run as it goes with room enough."""
    if not kept:
        undisturbed = copy.deepcopy(plain_data)
        undisturbed["out"] = str(tmp_path_factory.mktemp("whole") / "run")
        kept["run"] = run(undisturbed)
    return kept["run"]


@pytest.mark.parametrize("point", POINTS)
def test_the_disk_fills_up_while_a_checkpoint_is_written(
    run, plain_data, whole, fill_disk, monkeypatch, point
):
    calls = fill_disk(*POINTS[point])
    with pytest.raises(UserError, match=r"^The checkpoint of step 4 could not be written .*full\?"):
        run(plain_data)
    folder = Path(plain_data["out"] + ".unfinished") / "checkpoints"
    assert [path.name for path in newest_first(folder)] == ["checkpoint-2"]
    assert len(calls) == POINTS[point][3]

    monkeypatch.undo()
    run(plain_data, resume=True).assert_same(whole)


def test_the_disk_fills_up_while_the_log_is_written(run, plain_data, whole, monkeypatch):
    original = Path.open

    def full(self, mode="r", **kwargs):
        file = original(self, mode, **kwargs)
        if self.name == "log.jsonl" and mode == "a" and self.read_text().count("\n") == 4:
            file.write('{"step": 5, "tok')
            file.close()
            raise FULL
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):  # the command line makes a sentence of it
        run(plain_data)
    monkeypatch.undo()
    run(plain_data, resume=True).assert_same(whole)


def test_the_disk_fills_up_while_the_result_is_written(
    run, plain_data, whole, fill_disk, monkeypatch
):
    fill_disk(run_module, "save", UNWRITTEN_WEIGHTS, 1)
    with pytest.raises(UserError, match=r"^The trained model in .* could not be written"):
        run(plain_data)
    assert not Path(plain_data["out"]).exists()
    monkeypatch.undo()
    run(plain_data, resume=True).assert_same(whole)


def test_other_failures_are_not_called_a_full_disk():
    with pytest.raises(RuntimeError, match="^CUDA out of memory"), told_when_unwritten("It"):
        raise RuntimeError("CUDA out of memory")


def test_the_newest_are_kept_and_a_name_is_taken_again(tmp_path):
    def write(step: int, content: str) -> None:
        path = staging(tmp_path) / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "weights").write_text(content)

    for step in (2, 9, 10):
        write(step, "old")
        publish(tmp_path, step, keep=2)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-10", "checkpoint-9"]
    write(10, "new")
    publish(tmp_path, 10, keep=2)
    assert (tmp_path / "checkpoint-10" / "weights").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync"))
    monkeypatch.setattr(checkpoints, "put_in_place", lambda *args, **kwargs: events.append("name"))
    written = staging(tmp_path) / "checkpoint-1"
    written.mkdir(parents=True)
    for name in ("a", "b"):
        (written / name).write_text("")
    publish(tmp_path, 1, keep=1)
    assert events == ["sync"] * 3 + ["name", "sync"]
