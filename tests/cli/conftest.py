# SPDX-License-Identifier: Apache-2.0
"""The command line, called in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import yaml

from prosparse.cli.main import main


@dataclass
class Result:
    """What one call of the command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on stderr; fails when there are more or none."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def prosparse(monkeypatch, capsys) -> Callable[..., Result]:
    """Run `prosparse ARGUMENTS...`."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["prosparse", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        code = exit_.value.code
        return Result(0 if code is None else int(code), captured.out, captured.err)

    return run


@pytest.fixture
def recipe_file(recipe_data, tmp_path):
    """Write the recipe of six steps, changed by a function, and return its path."""

    def write(change: Callable[[dict], object] = lambda data: None):
        change(recipe_data)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_data))
        return path

    return write
