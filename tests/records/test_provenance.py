# SPDX-License-Identifier: Apache-2.0
"""A record says when, where, with what and by which command its numbers were made."""

import platform
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import torch
import transformers

from prosparse.records import provenance
from prosparse.records.provenance import collect_provenance


def test_all_fields(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/prosparse", "measure", "model"])
    found = collect_provenance("a CPU", 2, seed=7)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found.date)) < timedelta(minutes=1)
    assert found.date.endswith("+00:00")
    assert found.command == "prosparse measure model"
    assert (found.device, found.num_threads, found.seed) == ("a CPU", 2, 7)
    assert found.packages["torch"] == torch.__version__
    assert found.packages["transformers"] == transformers.__version__
    assert found.python == platform.python_version()
    assert platform.system() in found.platform


def test_packages_that_are_absent_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert list(collect_provenance("a CPU", 1).packages) == ["torch"]


def test_the_revision_of_the_source_tree():
    commit = collect_provenance("a CPU", 1).git_commit
    assert commit is None or re.fullmatch(r".*[0-9a-f]{7,40}(-dirty)?", commit)


def test_no_git_is_no_revision(monkeypatch):
    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert collect_provenance("a CPU", 1).git_commit is None
