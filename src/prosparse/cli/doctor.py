# SPDX-License-Identifier: Apache-2.0
"""`prosparse doctor`."""

from __future__ import annotations


def doctor() -> None:
    """Say what of this machine prosparse can use, what is missing, and what that costs.

    Example: `prosparse doctor`
    """
    import prosparse as ps

    for finding in ps.doctor():
        print(finding)
