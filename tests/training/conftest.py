# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny checkpoint: in this process, and in others that can be killed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from prosparse.kernels.backend import use_backend
from prosparse.records.codec import decode
from prosparse.records.files import read_log
from prosparse.records.run import TrainRecord
from prosparse.training.recipe import Recipe
from prosparse.training.run import train

CLOCKED = {"seconds", "tokens_per_second"}

TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WORKER = Path(__file__).with_name("worker.py")


@dataclass
class Finished:
    """What a run left behind."""

    folder: Path
    record: TrainRecord | None = None

    @property
    def log(self) -> list[dict]:
        """Lines of the log, without what a clock wrote."""
        lines = read_log(self.folder / "log.jsonl")
        return [{k: v for k, v in line.items() if k not in CLOCKED} for line in lines]

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / "model.safetensors")

    def assert_same(self, other: "Finished") -> None:
        """Every logged number and every weight is the same to the last bit."""
        assert self.log == other.log
        self.assert_same_weights(other)

    def assert_same_weights(self, other: "Finished") -> None:
        """Every weight is the same to the last bit."""
        mine, theirs = self.weights, other.weights
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []

    def assert_close(self, other: "Finished") -> None:
        """Every logged number and every weight is the same to float32 rounding.

        Rounding can put a gate that is next to zero on its other side: an entry or two of 12,288
        in a step, and what flows back through it.
        """
        slack = {"sparsity": 3e-4, "layer_sparsity": 3e-4, "grad_norm": 1e-2}
        for mine, theirs in zip(self.log, other.log, strict=True):
            for key, tolerance in slack.items():
                assert mine.pop(key) == pytest.approx(theirs.pop(key), rel=tolerance, abs=3e-4), key
            assert mine.pop("layer_coefficient", None) == theirs.pop("layer_coefficient", None)
            assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-9)
        for name, weight in self.weights.items():  # training moves each by more than one percent
            expected = other.weights[name]
            assert (weight - expected).norm() <= 2e-4 * expected.norm(), name


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, so that the same run gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["hooks", "fused"])
def path(request) -> Iterator[str]:
    """Train both ways: x_1 watched by hooks, as on a CPU, and computed by the fused operator."""
    with use_backend("reference") if request.param == "fused" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def plain_data(recipe_data) -> dict:
    """A recipe without measurements: training and nothing else."""
    return {k: v for k, v in recipe_data.items() if k not in ("measure", "threshold", "sample")}


@pytest.fixture
def run() -> Callable[..., Finished]:
    """Train a recipe given as plain data, on the CPU, in this process."""

    def run(data: dict, **options) -> Finished:
        recipe = decode(Recipe, data, "recipe.yaml")
        record = train(recipe, device="cpu", progress=False, **options)
        return Finished(Path(data["out"]), record)

    return run


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """Start `train` on a recipe in a process of its own; it is killed at the end of the test."""
    processes = []

    def start(data: dict, *options: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(data, sort_keys=False))
        process = subprocess.Popen(
            [sys.executable, *launcher, str(WORKER), str(recipe), *options],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run_on_two(start) -> Callable[..., Finished]:
    """Train a recipe in two processes; see `worker.py` for the options."""

    def run_on_two(data: dict, *options: str, code: int = 0) -> Finished:
        process = start(data, *options, launcher=TWO_PROCESSES)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == code, output
        return Finished(Path(data["out"]))

    return run_on_two


@pytest.fixture
def finished() -> Callable[[Path], Finished]:
    """Look at the folder of a run that another process made."""
    return Finished


@pytest.fixture
def intermediates() -> Callable[..., list[Tensor]]:
    """Return x_1 of each layer, from the FFNs' inputs and weights and nothing of prosparse."""

    def intermediates(model, ids_BS: Tensor, mask_BS: Tensor | None = None) -> list[Tensor]:
        entered, layers = [], model.model.layers
        handles = [
            layer.mlp.register_forward_hook(lambda module, args, output: entered.append(args[0]))
            for layer in layers
        ]
        model(input_ids=ids_BS, attention_mask=mask_BS)
        for handle in handles:
            handle.remove()
        return [
            functional.linear(x, layer.mlp.gate_proj.weight).relu()
            * functional.linear(x, layer.mlp.up_proj.weight)
            for layer, x in zip(layers, entered, strict=True)
        ]

    return intermediates
