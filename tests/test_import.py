# SPDX-License-Identifier: Apache-2.0
"""`import prosparse` costs almost nothing; its verbs come when they are asked for."""

import json
import subprocess
import sys

import pytest

import prosparse

PROBE = """
import json, sys, time
import torch
before = time.perf_counter()
import prosparse
seconds = time.perf_counter() - before
heavy = ("transformers", "datasets", "matplotlib", "gguf", "accelerate", "tokenizers")
print(json.dumps({
    "seconds": seconds,
    "heavy": [name for name in heavy if name in sys.modules],
    "cuda": torch.cuda.is_initialized(),
}))
"""


def import_in_a_fresh_process() -> dict:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_import_is_quick_and_light():
    probe = import_in_a_fresh_process()
    assert probe["heavy"] == []
    assert not probe["cuda"]
    seconds = [probe["seconds"]]
    while min(seconds) >= 0.3 and len(seconds) < 3:  # the machine may be busy
        seconds.append(import_in_a_fresh_process()["seconds"])
    assert min(seconds) < 0.3


@pytest.mark.parametrize("name", prosparse.__all__)
def test_every_public_name_is_there(name):
    assert callable(getattr(prosparse, name))
    assert name in dir(prosparse)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'prosparse' has no attribute 'relufi'"):
        prosparse.relufi  # noqa: B018
