# SPDX-License-Identifier: Apache-2.0
"""Time calls as a decode loop makes them: one CUDA graph, fresh weights in every call.

One graph holds one call for each copy of the weights, so launches cost what they cost in a captured
decode and not what Python costs. Before every replay a foreign buffer several times the size of the
L2 cache is read, and no weight is used twice within a replay: what a call reads comes from memory.
The time of a call is the replay's, between two events, over the number of calls. On a CPU the same
calls run in a plain loop on a wall clock, after the same sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from prosparse.benchmarking.machine import cache_bytes, free_bytes

Call = Callable[[], Tensor]

CACHE_SWEEPS = 4  # the foreign buffer is this many caches long
CACHE_SWEEPS_CPU = 2  # whose last caches are large, and slow to sweep
MEMORY_SHARE_CPU = 0.25  # of what is free, at most
COMPILATIONS = 3
METHOD = (
    "One CUDA graph holds one call for each copy of the weights; before every replay a buffer of "
    f"{CACHE_SWEEPS} times the L2 cache is read, so weights come from memory. A time is that of a "
    "replay between two events over the number of copies. As inside a model, a kernel may be launched "
    "while the one before it ends (programmatic dependent launch), the sparse operators' and those of "
    f"torch.compile alike; what is compiled is compiled {COMPILATIONS} times, and the fastest counts."
)
METHOD_CPU = (
    "A wall clock around a loop with one call for each copy of the weights, over their number; "
    f"before every loop a buffer of {CACHE_SWEEPS_CPU} times the last cache is read, where Linux tells its "
    "size and memory allows, so weights come from memory."
)


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often a measurement is repeated."""

    warmup: int = 4
    timed: int = 25


@dataclass(frozen=True, slots=True)
class Spread:
    """The time of one call over the repeats, in microseconds."""

    median: float
    p10: float
    p90: float


def spread(times: Sequence[float]) -> Spread:
    """Return median, 10th and 90th percentile of the repeats."""
    shares = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64)
    return Spread(*torch.quantile(torch.tensor(times, dtype=torch.float64), shares).tolist())


class Runnable(Protocol):
    """What a stopwatch times."""

    num_calls: int

    def run(self) -> None:
        """Run all calls once; on a GPU only start them."""


class Replay:
    """Calls that can be run again: outputs stand in the same memory each time on a GPU.

    Args:
        calls: Run once to warm up (they may compile), then captured.
        device: Where they run.
    """

    def __init__(self, calls: Sequence[Call], device: torch.device) -> None:
        self._calls = calls
        self._graph: torch.cuda.CUDAGraph | None = None
        self.num_calls = len(calls)
        if device.type != "cuda":
            self.outputs = [call() for call in calls]
            return
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for call in calls:
                call()
        torch.cuda.current_stream(device).wait_stream(side)
        torch.cuda.synchronize(device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.outputs = [call() for call in calls]

    def run(self) -> None:
        """Run all calls once; on a GPU this only starts them."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self.outputs = [call() for call in self._calls]

    def run_poisoned(self) -> list[Tensor]:
        """Fill the outputs with NaN, run, and return them: what was not written is seen."""
        for output in self.outputs:
            output.fill_(torch.nan)
        self.run()
        return self.outputs


class Stopwatch:
    """Times replays on one device."""

    def __init__(self, device: torch.device, repeats: Repeats) -> None:
        self._device, self._repeats = device, repeats
        is_gpu = device.type == "cuda"
        num_bytes = (CACHE_SWEEPS if is_gpu else CACHE_SWEEPS_CPU) * cache_bytes(device)
        if not is_gpu:
            num_bytes = min(num_bytes, int(MEMORY_SHARE_CPU * (free_bytes(device) or 0)))
        # Ones: pages of zeros that were never written are one and the same page on a CPU.
        self._foreign = torch.ones(max(1, num_bytes // 4), dtype=torch.int32, device=device)

    def time(self, replay: Runnable) -> Spread:
        """Return the time of one call of a replay."""
        return spread(self.time_in_turns([replay])[0])

    def time_in_turns(self, replays: Sequence[Runnable]) -> list[list[float]]:
        """Return the times of one call of each replay, one for each round, in microseconds.

        In a round every replay runs once: what changes slowly, such as a GPU's clocks under load,
        is the same for all of them.
        """
        once = self._time_on_gpu if self._device.type == "cuda" else self._time_on_cpu
        for _ in range(self._repeats.warmup):
            for replay in replays:
                once(replay)
        rounds = [[once(replay) for replay in replays] for _ in range(self._repeats.timed)]
        return [
            [read() / replay.num_calls for read in readings]
            for replay, readings in zip(replays, zip(*rounds, strict=True), strict=True)
        ]

    def _time_on_gpu(self, replay: Runnable) -> Callable[[], float]:
        """Start one replay; return a function that waits for its time in microseconds."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Read, not written: dirty lines would have to be written back within the measured time.
        self._foreign.max()
        start.record()
        replay.run()
        end.record()

        def read() -> float:
            end.synchronize()
            return 1e3 * start.elapsed_time(end)

        return read

    def _time_on_cpu(self, replay: Runnable) -> Callable[[], float]:
        self._foreign.max()
        start = time.perf_counter()
        replay.run()
        seconds = time.perf_counter() - start
        return lambda: 1e6 * seconds
