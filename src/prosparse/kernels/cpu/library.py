# SPDX-License-Identifier: Apache-2.0
"""The compiled CPU kernels: found beside this file, loaded once, told which variant to run.

Their C++ is in `csrc`, compiled when prosparse is installed; a machine without a compiler has none of
it, and `why_no_library` says so. The structures here are those of `csrc/job.h`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

VARIANT_VARIABLE = "PROSPARSE_CPU"
"""Environment variable that names a variant to use: portable, avx2, avx512, avx512vnni, neon."""

PATH = Path(__file__).with_name(
    "libprosparse_cpu.dylib" if sys.platform == "darwin" else "libprosparse_cpu.so"
)


class Matrix(ctypes.Structure):
    """A neuron-major matrix; `values` is None where there is none."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("group", ctypes.c_int64),
        ("kind", ctypes.c_int32),
    )


class Job(ctypes.Structure):
    """One call: `prosparse_run` takes the steps whose tensors it is given."""

    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("d_model", ctypes.c_int64),
        ("d_ff", ctypes.c_int64),
        ("kind", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("gate_pre", ctypes.c_void_p),
        ("x1", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("residual_is_float32", ctypes.c_int32),
        ("y_is_float32", ctypes.c_int32),
        ("gate", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("gate_bias", ctypes.c_void_p),
        ("up_bias", ctypes.c_void_p),
        ("down_bias", ctypes.c_void_p),
        ("threshold", ctypes.c_float),
        ("shift", ctypes.c_float),
        ("up_relu", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """One decoder layer of a Llama; inputs and outputs of its jobs are set in C++."""

    _fields_ = (
        ("attention_norm", ctypes.c_void_p),
        ("ffn_norm", ctypes.c_void_p),
        ("query", Job),
        ("key", Job),
        ("value", Job),
        ("output", Job),
        ("ffn", Job),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


class Decode(ctypes.Structure):
    """One token's way through a Llama."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("num_layers", ctypes.c_int64),
        ("d_model", ctypes.c_int64),
        ("num_heads", ctypes.c_int64),
        ("num_kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("max_length", ctypes.c_int64),
        ("kind", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
        ("scaling", ctypes.c_float),
        ("table", Matrix),
        ("cosines", ctypes.c_void_p),
        ("sines", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("head", Job),
        ("token", ctypes.c_int64),
        ("position", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
        ("likeliest", ctypes.c_int64),
    )


@functools.cache
def why_no_library() -> str | None:
    """Return why the compiled kernels cannot be used, as one sentence; None when they can."""
    if not PATH.exists():
        return (
            "The cpu backend was not compiled when prosparse was installed: install a C++17 compiler "
            "(GCC or Clang) and then prosparse again."
        )
    try:
        library()
    except (OSError, AttributeError, ValueError) as error:
        return f"The cpu backend does not load ({error}): install prosparse again."
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library, its functions typed and its variant chosen.

    Raises:
        OSError: It does not load here.
        AttributeError: It lacks a function: it is of another version.
        ValueError: It is of another version, or PROSPARSE_CPU names no variant that runs here.
    """
    loaded = ctypes.CDLL(str(PATH))
    loaded.prosparse_job_size.restype = ctypes.c_int64
    loaded.prosparse_decode_size.restype = ctypes.c_int64
    sizes = loaded.prosparse_job_size(), loaded.prosparse_decode_size()
    if sizes != (ctypes.sizeof(Job), ctypes.sizeof(Decode) + ctypes.sizeof(Layer)):
        raise ValueError("it was compiled from other sources")
    loaded.prosparse_run.argtypes = [ctypes.POINTER(Job)]
    loaded.prosparse_project.argtypes = [ctypes.POINTER(Job), ctypes.c_int32]
    loaded.prosparse_run_predicted.argtypes = [
        ctypes.POINTER(Job),
        ctypes.POINTER(Job),
        ctypes.c_float,
    ]
    loaded.prosparse_decode.argtypes = [ctypes.POINTER(Decode)]
    loaded.prosparse_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32]
    loaded.prosparse_read.restype = ctypes.c_uint64
    loaded.prosparse_variant.restype = ctypes.c_char_p
    loaded.prosparse_use_variant.argtypes = [ctypes.c_char_p]
    loaded.prosparse_use_openmp.argtypes = [ctypes.c_int32]
    loaded.prosparse_use_openmp.restype = None
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=loaded.prosparse_forget_threads)
    wanted = os.environ.get(VARIANT_VARIABLE)
    if wanted and loaded.prosparse_use_variant(wanted.encode()):
        raise ValueError(f"{VARIANT_VARIABLE}={wanted} names no variant that runs on this CPU")
    return loaded


def uses_openmp() -> bool:
    """Return whether the kernels run on the threads of PyTorch's OpenMP runtime."""
    return bool(library().prosparse_uses_openmp())


def variant() -> str:
    """Return the name of the variant in use."""
    return library().prosparse_variant().decode()
