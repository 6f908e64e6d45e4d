# SPDX-License-Identifier: Apache-2.0
"""Two processes never work on one folder."""

import subprocess
import sys

import pytest

from prosparse.errors import UserError
from prosparse.records.lock import alone

OTHER = """
import pathlib, sys
from prosparse.records.lock import alone
with alone(pathlib.Path(sys.argv[1]), wait=sys.argv[2] == "wait"):
    pathlib.Path(sys.argv[1], "was here").mkdir(parents=True)
"""


def other(folder, wait):
    command = [sys.executable, "-c", OTHER, str(folder), "wait" if wait else "no"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_second_process_is_refused_and_told(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with alone(folder, wait=False):
        assert "Another process is working on" in other(folder, wait=False).communicate()[1]
        assert not folder.exists()
    assert other(folder, wait=False).wait() == 0
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_a_second_process_waits_where_it_should(tmp_path):
    folder = tmp_path / "tokens"
    with alone(folder, wait=False):
        process = other(folder, wait=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        assert not folder.exists()
    assert process.wait(timeout=30) == 0
    assert folder.exists()


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    folder = tmp_path / "run"
    script = OTHER.replace(
        'pathlib.Path(sys.argv[1], "was here").mkdir(parents=True)',
        "import os; os.kill(os.getpid(), 9)",
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder), "no"]).returncode == -9
    with alone(folder, wait=False):
        pass


def test_the_block_may_fail(tmp_path):
    with pytest.raises(UserError, match="mine"), alone(tmp_path / "run", wait=False):
        raise UserError("mine")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match="cannot be written"),
        alone(tmp_path / "file" / "run", wait=False),
    ):
        pass
