# SPDX-License-Identifier: Apache-2.0
import importlib.util
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.training.trackers import check_trackers, tracker_arguments


def test_without_trackers_nothing_is_told():
    assert tracker_arguments((), "mine") == {"report_to": "none", "run_name": "mine"}


def test_trackers_are_named_to_transformers_and_trackio_stays_at_home():
    assert tracker_arguments(("wandb",), "mine")["report_to"] == ["wandb"]
    both = tracker_arguments(("tensorboard", "trackio"), "mine")
    assert both["report_to"] == ["trackio"]  # TensorBoard gets a callback of its own
    assert (both["project"], both["trackio_space_id"]) == ("prosparse", None)


def test_a_missing_tracker_is_named_before_anything_begins(run, plain_data, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find_spec(name)
    )
    with pytest.raises(UserError, match="report_to names wandb, .* pip install wandb"):
        check_trackers(["wandb"])
    plain_data["training"]["report_to"] = ["wandb"]
    with pytest.raises(UserError, match="report_to names wandb"):
        run(plain_data)
    assert not Path(plain_data["out"] + ".unfinished").exists()


def test_tensorboard_gets_what_the_log_has_and_what_was_held_out(run, recipe_data):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe_data["training"]["report_to"] = ["tensorboard"]
    done = run(recipe_data)
    events = EventAccumulator(str(done.folder / "tensorboard")).Reload()
    for theirs, ours in {"lm_loss": "loss", "sparsity": "sparsity", "tokens": "tokens"}.items():
        scalars = {event.step: event.value for event in events.Scalars(f"train/{theirs}")}
        assert scalars == pytest.approx({line["step"]: line[ours] for line in done.log})
    last = done.record.milestones[-1]
    assert events.Scalars("train/held_out/sparsity")[-1].value == pytest.approx(last.sparsity)
    assert events.Scalars("train/held_out/prose/perplexity")[-1].step == last.step
