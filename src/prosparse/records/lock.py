# SPDX-License-Identifier: Apache-2.0
"""One process at a time for a folder that is being written."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep every other process that asks likewise from working on `folder` inside the block.

    The lock is the operating system's, on a file beside the folder: it goes when the process does,
    however that ends.

    Args:
        folder: What will be written; it need not exist.
        wait: Wait for a process that works on it, or raise.

    Raises:
        UserError: Another process works on it and `wait` is false, or nothing can be written there.
    """
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise UserError(
            f"Another process is working on {folder} right now; wait for it or choose another 'out'."
        ) from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
