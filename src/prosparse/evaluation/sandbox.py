# SPDX-License-Identifier: Apache-2.0
"""Judge code that a model wrote, in a process that can do nothing but compute (`confined.py`)."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from prosparse.errors import UserError

WALL_SECONDS = 10.0
PASSED = "passed"
TIMED_OUT = "timed out"
_UNCONFINED = "unconfined: "
# Nothing of the user's environment; libraries for numbers must not start threads, which are refused.
_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def judge(program: str, seconds: float = WALL_SECONDS) -> str:
    """Return `passed`, `timed out`, or what stopped a program before its end.

    Args:
        program: Python code with its tests; it passes when it comes to its end.
        seconds: Wall-clock time that it gets; its CPU time is limited too (`confined.CPU_SECONDS`).

    Raises:
        UserError: This machine cannot confine a process, so the program was not run.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="prosparse-") as folder:
        child = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("confined.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        given = f"{token}\n{program}".encode(errors="surrogatepass")
        try:
            said = child.communicate(given, timeout=seconds)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            child.kill()
            child.wait()
    if said.startswith(_UNCONFINED):
        raise UserError(
            f"Code written by a model is not run here: {said.removeprefix(_UNCONFINED)}. Leave out "
            "--allow-code-execution, or evaluate on Linux (x86-64 or arm64) with seccomp."
        )
    if said == token:
        return PASSED
    return said or "ended early"


@cache
def check_confinement() -> None:
    """Raise unless this machine can confine a process.

    Raises:
        UserError: It cannot.
    """
    if judge("import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    pass\n"
             "else:\n    raise SystemExit") != PASSED:  # fmt: skip
        raise UserError("Code written by a model is not run here: confinement does not hold.")
