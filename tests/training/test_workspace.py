# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from prosparse.errors import UserError
from prosparse.records.codec import decode
from prosparse.training.recipe import Recipe
from prosparse.training.workspace import Workspace


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs" / "mine"


@pytest.fixture
def recipe(recipe_data) -> Recipe:
    return decode(Recipe, recipe_data, "recipe.yaml")


def write_checkpoint(workspace: Workspace, step: int, state: str | None = "{}") -> None:
    folder = workspace.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    if state is not None:
        (folder / "trainer_state.json").write_text(state)


def write_log(workspace: Workspace, steps: range, tail: str = "") -> None:
    lines = [json.dumps({"step": n, "tokens": 64 * n, "seconds": n / 4}) + "\n" for n in steps]
    workspace.log.write_text("".join(lines) + tail)


def test_a_run_works_beside_the_name_it_was_promised(out):
    workspace = Workspace(out)
    assert workspace.folder == out.parent / "mine.unfinished"
    assert workspace.folder.is_dir()
    assert not out.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_is_refused(out, resume):
    out.mkdir(parents=True)
    with pytest.raises(UserError, match="mine already exists.*--overwrite"):
        Workspace(out, resume=resume)
    assert list(out.parent.iterdir()) == [out]


def test_an_unfinished_run_is_refused_and_left_alone(out):
    write_log(Workspace(out), range(3))
    with pytest.raises(UserError, match=r"mine\.unfinished; pass --resume .* or --overwrite"):
        Workspace(out)
    assert (out.parent / "mine.unfinished" / "log.jsonl").is_file()


def test_resume_goes_on_with_an_unfinished_run(out):
    write_log(Workspace(out), range(3))
    assert Workspace(out, resume=True).log.is_file()


def test_resume_with_nothing_to_resume_simply_starts(out):
    workspace = Workspace(out, resume=True)
    assert workspace.folder.is_dir()
    assert workspace.last_checkpoint() is None
    assert workspace.rewind_log(0) == (0, 0.0)


def test_overwrite_starts_an_unfinished_run_again(out):
    write_log(Workspace(out), range(3))
    assert not Workspace(out, overwrite=True).log.exists()


def test_a_resumed_run_has_the_recipe_it_began_with(out, recipe):
    workspace = Workspace(out)
    workspace.pin_recipe(recipe)
    assert (workspace.folder / "recipe.yaml").read_text() == recipe.to_yaml()
    Workspace(out, resume=True).pin_recipe(recipe)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda data: data["training"].update(seed=3), "training.seed: 0 then, 3 now"),
        (
            lambda data: data["data"].update(context_length=64),
            "data.context_length: 32 then, 64 now",
        ),
        (lambda data: data.pop("sample"), "sample: {'prompt': 'def', 'tokens': 4} then, None now"),
        (  # the mixture breaks ties by the order of its components
            lambda data: data["data"].update(
                components=dict(reversed(data["data"]["components"].items()))
            ),
            r"data.components: \['prose', 'code'\] then, \['code', 'prose'\] now",
        ),
        (
            lambda data: data["data"]["components"].pop("code"),
            "data.components.code: {'path': .* then, None now",
        ),
    ],
)
def test_resume_with_another_recipe_names_the_difference(
    out, recipe, recipe_data, change, difference
):
    workspace = Workspace(out)
    workspace.pin_recipe(recipe)
    change(recipe_data)
    with pytest.raises(
        UserError, match=rf"another recipe \({difference}\).*--overwrite instead of"
    ):
        Workspace(out, resume=True).pin_recipe(decode(Recipe, recipe_data, "recipe.yaml"))
    assert (workspace.folder / "recipe.yaml").read_text() == recipe.to_yaml()


def test_the_newest_checkpoint_is_found_by_its_number(out):
    workspace = Workspace(out)
    for step in (2, 10, 9):
        write_checkpoint(workspace, step)
    assert workspace.last_checkpoint().name == "checkpoint-10"


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1', "\0\0\0\0"])
def test_a_checkpoint_cut_short_is_passed_over_and_out_of_the_way(out, state):
    workspace = Workspace(out)
    write_checkpoint(workspace, 2)
    write_checkpoint(workspace, 4, state)
    assert workspace.last_checkpoint().name == "checkpoint-2"
    assert not (workspace.checkpoints / "checkpoint-4").exists()


def test_a_checkpoint_that_was_being_written_is_none(out):
    workspace = Workspace(out)
    write_checkpoint(workspace, 2)
    (workspace.checkpoints / "checkpoint-2").rename(workspace.checkpoints / ".being-written")
    assert workspace.last_checkpoint() is None
    assert list(workspace.checkpoints.iterdir()) == []


def test_rewinding_the_log_drops_what_a_resume_will_do_again(out):
    workspace = Workspace(out)
    write_log(workspace, range(1, 8))
    assert workspace.rewind_log(4) == (256, 1.0)
    assert [json.loads(line)["step"] for line in workspace.log.open()] == [1, 2, 3, 4]


def test_rewinding_the_log_drops_a_half_written_last_line(out):
    workspace = Workspace(out)
    write_log(workspace, range(1, 4), tail='{"step": 4, "tok')
    assert workspace.rewind_log(100) == (192, 0.75)
    assert [json.loads(line)["step"] for line in workspace.log.open()] == [1, 2, 3]


def test_a_run_without_a_checkpoint_begins_its_log_again(out):
    workspace = Workspace(out)
    write_log(workspace, range(1, 4))
    assert workspace.rewind_log(0) == (0, 0.0)
    assert workspace.log.read_text() == ""


@pytest.fixture
def done(out, recipe) -> Workspace:
    workspace = Workspace(out)
    workspace.pin_recipe(recipe)
    write_checkpoint(workspace, 2)
    write_log(workspace, range(3))
    (workspace.tokens / "prose").mkdir(parents=True)
    workspace.milestones.write_text("")
    (workspace.folder / "model.safetensors").write_text("weights")
    return workspace


def test_a_finished_run_leaves_only_what_is_its_result(out, done):
    done.finish()
    assert sorted(p.name for p in out.iterdir()) == [
        "log.jsonl",
        "model.safetensors",
        "recipe.yaml",
    ]
    assert list(out.parent.iterdir()) == [out]


def test_a_run_killed_while_it_finishes_keeps_its_checkpoints_or_its_name(out, done, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("prosparse.training.workspace.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        done.finish()
    assert (out / "model.safetensors").is_file() or (done.checkpoints / "checkpoint-2").is_dir()


def test_overwrite_replaces_the_old_run_only_when_the_new_one_is_whole(out):
    out.mkdir(parents=True)
    (out / "old").write_text("")
    workspace = Workspace(out, overwrite=True)
    (workspace.folder / "new").write_text("")
    assert (out / "old").is_file()
    workspace.finish()
    assert [path.name for path in out.iterdir()] == ["new"]
    assert list(out.parent.iterdir()) == [out]
