# SPDX-License-Identifier: Apache-2.0
"""Every variant of the CPU kernels that runs here, on PyTorch's threads and on our own.

PROSPARSE_TEST_CPU_LIBRARY names another build of the library to test: `make sanitize`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prosparse.kernels.cpu import library

if "PROSPARSE_TEST_CPU_LIBRARY" in os.environ:
    library.PATH = Path(os.environ["PROSPARSE_TEST_CPU_LIBRARY"])

VARIANTS = ("portable", "avx2", "avx512", "avx512vnni", "neon")


def use(variant: str | None) -> bool:
    """Switch to a variant, None being the best one; return whether it runs here."""
    name = None if variant is None else variant.encode()
    return library.library().prosparse_use_variant(name) == 0


@pytest.fixture(autouse=True)
def _compiled() -> Iterator[None]:
    """Skip without the library; leave variant, pool and threads as they were."""
    if library.why_no_library():
        pytest.skip(library.why_no_library())
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    use(None)
    library.library().prosparse_use_openmp(True)


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    """Run the test once for each variant."""
    if not use(request.param):
        pytest.skip(f"this CPU, or this build, has no {request.param}")
    return request.param


@pytest.fixture(params=[True, False], ids=["openmp", "own-threads"])
def pool(request) -> bool:
    """Run the test on each kind of threads."""
    library.library().prosparse_use_openmp(request.param)
    if request.param and not library.uses_openmp():
        pytest.skip("no OpenMP runtime is loaded")
    return request.param
