# SPDX-License-Identifier: Apache-2.0
"""Code that nobody has read can compute, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prosparse.errors import UserError
from prosparse.evaluation import confined, sandbox
from prosparse.evaluation.code_scoring import humaneval, mbpp
from prosparse.evaluation.sandbox import PASSED, TIMED_OUT, check_confinement, judge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is Linux's seccomp")

REFUSED = "PermissionError"
FORBIDDEN = {
    "network": "import socket; socket.socket()",
    "sockets between processes": "import socket; socket.socketpair()",
    "fork": "import os; os.fork()",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "program": "import subprocess; subprocess.run(['true'])",
    "shell": "import os; assert os.system('true') == 0",
    "file": "open('new', 'w')",
    "append": "open('/tmp/x', 'a')",
    "delete": "import os; os.remove('/etc/hostname')",
    "folder": "import os; os.mkdir('new')",
    "kill": "import os; os.kill(os.getppid(), 9)",
    "namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0",
}


def test_what_comes_to_its_end_passes():
    assert judge("assert 1 + 1 == 2") == PASSED
    assert (
        judge("import math, re, heapq, collections, typing, datetime, random, itertools") == PASSED
    )
    assert judge("import numpy as np; assert (np.eye(3) @ np.ones(3)).sum() == 3") == PASSED


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("assert False", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("def f(n): return f(n)\nf(1)", "RecursionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended early"),
        ("print('passed'); raise KeyError", "KeyError"),
        ("x = bytearray(3 << 30)", "MemoryError"),
        ("input()", "EOFError"),
    ],
)
def test_what_does_not_is_no_pass(program, verdict):
    assert judge(program) == verdict


@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_kernel_refuses(name):
    verdict = judge(FORBIDDEN[name])
    assert verdict != PASSED
    if name not in ("shell", "namespace"):
        assert verdict == REFUSED


def test_threads_are_processes_too():
    assert judge("import threading; threading.Thread(target=print).start()") == "RuntimeError"


def test_refusals_come_from_the_kernel_not_from_python():
    raw = "import ctypes; libc = ctypes.CDLL(None); assert libc.syscall({}) == -1"
    column, _ = confined.ARCHITECTURES[os.uname().machine]
    for name in ("socket", "clone", "unlinkat", "kill"):
        assert judge(raw.format(confined.REFUSED[name][column])) == PASSED


def test_what_sleeps_forever_is_stopped():
    started = time.monotonic()
    assert judge("import time; time.sleep(1000)", seconds=1.0) == TIMED_OUT
    assert time.monotonic() - started < 5


def test_what_loops_forever_runs_out_of_cpu_time(monkeypatch, tmp_path):
    text = Path(confined.__file__).read_text().replace("CPU_SECONDS = 5", "CPU_SECONDS = 1")
    (tmp_path / "confined.py").write_text(text)
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
    assert judge("while True: pass") == "ended early"


def test_nothing_of_the_environment_is_known(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    assert (
        judge("import os; assert 'SECRET_TOKEN' not in os.environ and 'HOME' not in os.environ")
        == PASSED
    )


def test_no_process_is_left_behind():
    judge("import time; time.sleep(1000)", seconds=0.5)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    mine = [
        line for line in running.splitlines() if "confined.py" in line and str(Path.cwd()) in line
    ]
    assert mine == []


def test_a_machine_that_cannot_confine_runs_nothing(monkeypatch, tmp_path):
    text = (
        Path(confined.__file__)
        .read_text()
        .replace('"x86_64"', '"vax"')
        .replace('"aarch64"', '"pdp"')
    )
    (tmp_path / "confined.py").write_text(text)
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
    with pytest.raises(UserError, match="is not run here: no confinement is known for linux"):
        judge("pass")


def test_this_machine_confines():
    check_confinement()


@pytest.mark.parametrize("machine", confined.ARCHITECTURES)
def test_the_filter_fits_the_kernel(machine):
    program = confined.seccomp_program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096  # BPF_MAXINSNS


def test_an_answer_is_judged_by_the_item_s_tests():
    item = {
        "prompt": "def double(x):\n",
        "test": "def check(f):\n    assert f(2) == 4",
        "entry_point": "double",
    }
    assert humaneval(item, ["    return 2 * x"]) == {"pass@1": 1.0}
    assert humaneval(item, ["    return x"]) == {"pass@1": 0.0}
    item = {"test_setup_code": "n = 3", "test_list": ["assert f(n) == 3", "assert f(1) == 1"]}
    assert mbpp(item, ["def f(x): return x"]) == {"pass@1": 1.0}
    assert mbpp(item, ["def f(x): return 3"]) == {"pass@1": 0.0}
