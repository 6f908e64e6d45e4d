# SPDX-License-Identifier: Apache-2.0
"""Runs of the tiny checkpoint: in this process, and in others that can be killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from prosparse.records.codec import decode
from prosparse.records.files import read_log
from prosparse.records.run import TrainRecord
from prosparse.training.recipe import Recipe
from prosparse.training.run import train

CLOCKED = {"seconds", "tokens_per_second"}

SCRIPT = """
import sys
import prosparse as ps

ps.train(sys.argv[1], device="cpu", progress=False, resume="--resume" in sys.argv)
"""


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
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "model.safetensors")

    def assert_same(self, other: "Finished") -> None:
        """Every logged number and every weight is the same to the last bit."""
        assert self.log == other.log
        mine, theirs = self.weights, other.weights
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []

    def assert_close(self, other: "Finished", tolerance: float = 1e-5) -> None:
        """Every logged number and every weight is the same to float32 rounding."""
        for mine, theirs in zip(self.log, other.log, strict=True):
            assert mine == pytest.approx(theirs, rel=tolerance, abs=1e-7)
        for name, weight in self.weights.items():
            torch.testing.assert_close(weight, other.weights[name], rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, so that the same run gives the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
        script, recipe = tmp_path / "script.py", tmp_path / "recipe.yaml"
        script.write_text(SCRIPT)
        recipe.write_text(yaml.safe_dump(data))
        process = subprocess.Popen(
            [sys.executable, *launcher, str(script), str(recipe), *options],
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
def read_json() -> Callable[[Path], dict]:
    return lambda path: json.loads(path.read_text())
