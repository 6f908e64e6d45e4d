# SPDX-License-Identifier: Apache-2.0
"""Benchmarks whose times mean nothing need not sweep a cache of hundreds of megabytes first."""

import pytest

from prosparse.benchmarking import limit, timing


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 0)
    monkeypatch.setattr(limit, "SIZES_MB_CPU", (0.03, 0.06, 0.12))
    monkeypatch.setattr(limit, "BUFFER_BYTES_CPU", 2**20)
