# SPDX-License-Identifier: Apache-2.0
"""Weights and optimizer as every process's own share, written while training goes on.

The format (`torch.distributed.checkpoint`) names every tensor and where its parts lie, and so can be
read by any number of processes, one without a process group among them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

SHARDS = "shards"


class ShardedCheckpoints:
    """Writes one checkpoint at a time in the background.

    All processes make one and call its methods together.
    """

    def __init__(self) -> None:
        # Its own group: the writing speaks between processes while training does, and on the CPU.
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo"))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def begin(
        self, folder: Path, model: nn.Module, optimizer: Optimizer, then: Callable[[], None]
    ) -> None:
        """Copy the state now, write it into `folder` while training goes on, and call `then`."""
        self.wait()
        written = cast(
            "Future[Any]",
            dcp.async_save(
                _state(model, optimizer),
                checkpoint_id=folder / SHARDS,
                process_group=self._group,
            ),
        )

        def finish() -> None:
            written.result()  # on any process: all have written, and the index is there
            then()

        self._pending = self._pool.submit(finish)

    def wait(self) -> None:
        """Wait until what was begun is written.

        Raises:
            OSError: It could not be.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except CheckpointException as error:
            first, _ = next(iter(error.failures.values()))
            raise OSError(str(first)) from error

    def load(self, folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
        """Read a checkpoint of any number of processes into a model and its optimizer."""
        state = _state(model, optimizer)
        dcp.load(state, checkpoint_id=folder / SHARDS)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )


def _state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}
