# SPDX-License-Identifier: Apache-2.0
"""What is run under a memory checker runs at all."""

from tests.kernels.launches import launch_all


def test_every_call_gives_numbers():
    assert launch_all("cpu") == 16 * 7 + 16 * 4  # 64 divides the width of half of the shapes
