# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ to machine code through NVRTC, which comes with the CUDA builds of PyTorch.

Neither nvcc nor CUDA headers are needed. Machine code is cached on disk under a name made of
everything it depends on: sources, constants, architecture and compiler version.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

OPTIONS = ("--std=c++17",)


def compile_cubin(name: str, constants: Mapping[str, object], architecture: str) -> bytes:
    """Return the machine code of `csrc/NAME.cu`, from the cache if it is there.

    Args:
        name: Name of the source, without its suffix.
        constants: Macros, by name; None defines the name alone.
        architecture: `sm_80`, `sm_90`, ...

    Raises:
        RuntimeError: The source does not compile; the message holds the compiler's log.
    """
    # A header and no -D options: the compiler's own headers have template parameters named T.
    lines = [f"#define {key} {'' if value is None else value}" for key, value in constants.items()]
    sources = {**_sources(), "constants.cuh": "#pragma once\n" + "\n".join(sorted(lines)) + "\n"}
    options = [*OPTIONS, f"--gpu-architecture={architecture}"]
    parts = [name, _compiler_version(), *options, *(f"{k}\0{v}" for k, v in sources.items())]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    path = cache_folder() / f"{name}-{architecture}-{key[:32]}.cubin"
    if path.is_file():
        return path.read_bytes()
    cubin = _compile(name, sources, options)
    _keep(path, cubin)
    return cubin


def cache_folder() -> Path:
    """Return where machine code is kept: $PROSPARSE_CACHE, or `prosparse` in the user's cache."""
    if folder := os.environ.get("PROSPARSE_CACHE"):
        return Path(folder)
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prosparse" / "kernels"
    )


@functools.cache
def _sources() -> dict[str, str]:
    folder = resources.files("prosparse.kernels") / "csrc"
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith((".cu", ".cuh"))
    }


@functools.cache
def _compiler_version() -> str:
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return f"nvrtc {major}.{minor}"


def _compile(name: str, sources: Mapping[str, str], options: list[str]) -> bytes:
    from cuda.bindings import nvrtc

    headers = {file: text for file, text in sources.items() if file.endswith(".cuh")}
    status, program = nvrtc.nvrtcCreateProgram(
        sources[f"{name}.cu"].encode(),
        f"{name}.cu".encode(),
        len(headers),
        [text.encode() for text in headers.values()],
        [file.encode() for file in headers],
    )
    _check(status)
    try:
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _check(*nvrtc.nvrtcGetProgramLogSize(program))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"{name}.cu does not compile:\n{log.decode()[:4000]}")
        cubin = b" " * _check(*nvrtc.nvrtcGetCUBINSize(program))
        _check(*nvrtc.nvrtcGetCUBIN(program, cubin))
        return cubin
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _check(status: object, *results: int) -> int:
    from cuda.bindings import nvrtc

    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC failed: {status}.")
    return results[0] if results else 0


def _keep(path: Path, cubin: bytes) -> None:
    """Write whole or not at all; a cache that cannot be written to costs time, never the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        Path(file.name).replace(path)
    except OSError:
        return
