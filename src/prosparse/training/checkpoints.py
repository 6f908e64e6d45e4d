# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that a full disk or a kill leaves whole or not at all.

The Trainer writes a checkpoint file by file. Here it does so in a folder that no resume looks at;
when all is written, and the disk says that it has it, the checkpoint moves to its name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from prosparse.errors import UserError
from prosparse.records.files import put_in_place

STAGING = ".being-written"
PREFIX = "checkpoint-"


def staging(folder: Path) -> Path:
    """Return the folder beside the checkpoints in `folder` where the next one is written."""
    return folder / STAGING


def publish(folder: Path, step: int, keep: int) -> None:
    """Move the checkpoint of `step` out of staging, and drop all but the newest `keep`.

    Args:
        folder: Of the checkpoints.
        step: Its optimizer step.
        keep: >= 1.
    """
    written = staging(folder) / f"{PREFIX}{step}"
    for path in [*written.rglob("*"), written]:
        _sync(path)
    put_in_place(written, folder / written.name, overwrite=True)
    _sync(folder)
    shutil.rmtree(staging(folder))
    for old in newest_first(folder)[keep:]:
        shutil.rmtree(old)


def newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, that of the last step first."""
    return sorted(folder.glob(f"{PREFIX}*"), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint, from its name."""
    return int(checkpoint.name.removeprefix(PREFIX))


@contextmanager
def told_when_unwritten(what: str) -> Iterator[None]:
    """Say in one sentence that something could not be written.

    Raises:
        UserError: The disk is full, or something else about the file system failed.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save speaks of a full disk as a RuntimeError of its archive writer, and of nothing
        # else that way.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{what} could not be written ({reason}); is the disk full? Make room and go on with "
            "--resume: what was whole before still is."
        ) from error


def _sync(path: Path) -> None:
    """Wait until what was written at `path` is on the disk; only then is it sure to fit."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
