# SPDX-License-Identifier: Apache-2.0
"""The command as a process of its own: nothing of the libraries' chatter reaches the user."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "prosparse.cli.main"]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_mistake_is_one_line_and_code_2(checkpoint, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "whole"}\n{"text": "half\n')
    done = run("measure", checkpoint, "--data", f"a={tmp_path / 'a.jsonl'}", "--context-length", 8)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "a.jsonl, line 2, is not JSON" in line


def test_the_text_and_its_pace_are_all_that_generate_prints(checkpoint):
    done = run("generate", checkpoint, "--prompt", "def", "--tokens", 3)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.endswith(" (dense).")
    assert done.stdout.endswith("\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_training_saves_and_says_how_to_go_on(recipe_file, tmp_path, number):
    # Enough steps that the run is still going when the signal comes.
    path = recipe_file(lambda r: r["regularization"]["stages"][-1].update(until=100_000))
    process = subprocess.Popen(
        [*COMMAND, "train", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for row in process.stdout:
            if row.startswith("stage 1"):
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    last = errors.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("Stopped after step ")
    assert last.endswith("The same command with --resume goes on from there.")
    assert "Traceback" not in errors
    assert list((tmp_path / "run.unfinished" / "checkpoints").glob("checkpoint-*"))


def test_sigterm_before_the_first_step_is_an_interruption_too(recipe_file, tmp_path):
    path = recipe_file(lambda r: r["measure"].update(tokens=100_000))
    process = subprocess.Popen(
        [*COMMAND, "train", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()  # the header of the table: measuring has begun
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize("verb", ["measure", "relufy"])
def test_a_plain_ctrl_c_is_130_without_a_traceback(verb, prosparse, checkpoint, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"prosparse.{verb}", interrupt, raising=False)
    result = prosparse(verb, checkpoint, "--out", "x")
    assert result.code == 130
    assert result.complaint == "Interrupted."


def test_a_mistake_after_a_progress_bar_stands_on_its_own_line(prosparse, recipe_file, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "whole"}\n' * 20 + "{\n")
    path = recipe_file(lambda r: r["data"]["components"]["code"].update(path=str(broken)))
    result = prosparse("train", path)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert last.startswith("Data component 'code': ")
    assert "broken.jsonl, line 21, is not JSON" in last


def test_a_mistake_is_one_line_whatever_the_library_said(prosparse, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    result = prosparse("relufy", copy, "--out", tmp_path / "out")
    assert result.code == 2
    assert "'hidden_size' expected int, got str" in result.complaint
