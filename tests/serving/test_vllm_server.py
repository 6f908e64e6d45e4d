# SPDX-License-Identifier: Apache-2.0
import json
import os
import sys
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.serving import vllm_server


@pytest.fixture
def process(monkeypatch):
    """The process that would be vLLM."""

    class Process:
        code = 0
        interrupted = False
        ended = False

        def start(self, command, env):
            self.command, self.folder = command, Path(env["PROMETHEUS_MULTIPROC_DIR"])
            assert self.folder.is_dir()
            assert env.keys() >= os.environ.keys()
            return self

        def wait(self):
            if self.interrupted and not self.ended:
                raise KeyboardInterrupt
            return self.code

        def terminate(self):
            self.ended = True

    process = Process()
    monkeypatch.setattr(vllm_server.subprocess, "Popen", process.start)
    return process


def serve():
    vllm_server.run_vllm("model", "0.0.0.0", 8001, "float32", 4, ["--enforce-eager"])


def test_the_command_is_that_of_vllm_with_our_option(process):
    serve()
    *start, config, extra = process.command
    assert start == [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "model", "--host", "0.0.0.0",
        "--port", "8001", "--dtype", "float32", "--additional-config",
    ]  # fmt: skip
    assert json.loads(config) == {"prosparse_max_tokens": 4}
    assert extra == "--enforce-eager"
    assert not process.folder.exists()


def test_interrupted_it_ends_vllm_first(process):
    process.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        serve()
    assert process.ended
    assert not process.folder.exists()


def test_its_failure_is_ours(process):
    process.code = 1
    with pytest.raises(UserError, match="vLLM ended with code 1"):
        serve()
