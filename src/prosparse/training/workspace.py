# SPDX-License-Identifier: Apache-2.0
"""The folder a run works in, until it is whole and takes the name it was promised.

`<out>.unfinished/` holds what a resume needs: the recipe, trainer checkpoints, the log and the
tokenized data. It becomes `<out>/` only when the run is done, so a folder without that suffix is
always whole.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from prosparse.errors import UserError
from prosparse.records.files import (
    LOG_NAME,
    RECORD_NAME,
    Record,
    put_in_place,
    read_log,
    read_record,
    refuse_existing,
    write_whole,
)
from prosparse.training.checkpoints import newest_first, staging
from prosparse.training.recipe import Recipe

RECIPE_NAME = "recipe.yaml"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run; the message says how to go on."""


class Workspace:
    """The working folder of one run.

    Args:
        out: Where the finished run will stand.
        overwrite: Start anew over an unfinished run, and replace `out` at the end.
        resume: Go on with an unfinished run if there is one.

    Raises:
        UserError: `out` exists, or an unfinished run does and neither option was given.
    """

    def __init__(self, out: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        refuse_existing(out, overwrite)
        self.out = out
        self.overwrite = overwrite
        self.folder = out.with_name(out.name + ".unfinished")
        if self.folder.exists() and not resume:
            if not overwrite:
                raise UserError(
                    f"An unfinished run is in {self.folder}; pass --resume to go on with it or "
                    "--overwrite to start again."
                )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the trainer's checkpoints."""
        return self.folder / "checkpoints"

    @property
    def tokens(self) -> Path:
        """Folder of the tokenized training data."""
        return self.folder / "tokens"

    @property
    def log(self) -> Path:
        """The JSONL log of the training steps."""
        return self.folder / LOG_NAME

    @property
    def milestones(self) -> Path:
        """The milestones reached so far, one a line."""
        return self.folder / "milestones.jsonl"

    def pin_recipe(self, recipe: Recipe) -> None:
        """Write the recipe down, or check that a resumed run is still the same one.

        Raises:
            UserError: The unfinished run was started with another recipe; names the difference.
        """
        path = self.folder / RECIPE_NAME
        if path.is_file():
            refuse_other_recipe(path, recipe)
        write_whole(path, recipe.to_yaml())

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint.

        One under its name is whole, unless the machine itself went down: the trainer's state file
        was written last, so one without it, or with a broken one, is passed over.
        """
        shutil.rmtree(staging(self.checkpoints), ignore_errors=True)  # one that was cut short
        for path in newest_first(self.checkpoints):
            try:
                json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            except (OSError, json.JSONDecodeError):
                shutil.rmtree(path)  # in the way of the checkpoint that will take its name
                continue
            return path
        return None

    def rewind_log(self, last_step: int) -> tuple[int, float]:
        """Drop log lines after `last_step`; return the tokens and training seconds up to it."""
        lines = [line for line in read_log(self.log) if line["step"] <= last_step]
        write_whole(self.log, "".join(json.dumps(line) + "\n" for line in lines))
        return (lines[-1]["tokens"], lines[-1]["seconds"]) if lines else (0, 0.0)

    def finish(self) -> None:
        """Take the promised name, and remove what only a resume needs.

        In this order: a run killed in between has its result, never a resume without checkpoints.
        """
        put_in_place(self.folder, self.out, self.overwrite)
        for needed in (self.checkpoints, self.tokens):
            shutil.rmtree(self.out / needed.name, ignore_errors=True)
        (self.out / self.milestones.name).unlink(missing_ok=True)


def finished_record(recipe: Recipe) -> Record | None:
    """Return the record of the run that a recipe describes, if it is done; else None.

    Raises:
        UserError: `recipe.out` holds a finished run of another recipe.
    """
    out = Path(recipe.out)
    if not ((out / RECIPE_NAME).is_file() and (out / RECORD_NAME).is_file()):
        return None
    refuse_other_recipe(out / RECIPE_NAME, recipe)
    return read_record(out)


def refuse_other_recipe(path: Path, recipe: Recipe) -> None:
    """Raise when the recipe pinned at `path` is not `recipe`.

    Raises:
        UserError: It is another; names the first difference.
    """
    text = recipe.to_yaml()
    pinned = path.read_text(encoding="utf-8")
    if pinned == text:
        return
    difference = _difference(yaml.safe_load(pinned), yaml.safe_load(text))
    raise UserError(
        f"The run in {path.parent} has another recipe ({difference}); resume it with the recipe "
        "it began with, or pass --overwrite instead of --resume to start again."
    )


def _difference(old: object, new: object, path: str = "") -> str:
    """Return the first place where two recipes differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            # As text, because the order of keys counts: equal shares of the data go by it.
            if json.dumps(old.get(key)) != json.dumps(new.get(key)):
                where = f"{path}.{key}" if path else str(key)
                return _difference(old.get(key), new.get(key), where)
        old, new = list(old), list(new)
    return f"{path}: {old!r} then, {new!r} now"
