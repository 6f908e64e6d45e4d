# SPDX-License-Identifier: Apache-2.0
"""The NEON kernels, on an emulated ARM CPU where a cross-compiler and qemu are installed.

On Debian: apt-get install g++-aarch64-linux-gnu qemu-user-static.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from prosparse.kernels.cpu import library

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SOURCES = Path(library.__file__).parent / "csrc"
NAMES = ("library", "pool", "variant_portable", "variant_neon")


@pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"needs {COMPILER}, {EMULATOR}"
)
def test_neon_computes_what_the_portable_variant_does(tmp_path):
    program = tmp_path / "variants_agree"
    sources = [Path(__file__).with_name("variants_agree.cpp")]
    sources += [SOURCES / f"{name}.cpp" for name in NAMES]
    options = ["-std=c++17", "-O2", "-static", "-pthread", "-DPROSPARSE_WITH_NEON", f"-I{SOURCES}"]
    subprocess.run([COMPILER, *options, "-o", program, *sources], check=True, capture_output=True)
    done = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
