# SPDX-License-Identifier: Apache-2.0
"""Where a number comes from: versions, device, source revision, command and date."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "prosparse",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "scipy",
    "triton",
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """The circumstances under which a record was made."""

    date: str
    """UTC, ISO 8601, to the second."""
    command: str
    """The command line as it was typed; absolute paths without their folders."""
    device: str
    """What the numbers were computed on, e.g. `NVIDIA H100 80GB HBM3` or a CPU's name."""
    num_threads: int
    """CPU threads that torch used."""
    packages: dict[str, str]
    """Installed versions; packages that are absent are left out."""
    python: str
    platform: str
    git_commit: str | None
    """Revision of the prosparse source tree, with `-dirty` when it had local changes."""
    seed: int | None


def collect_provenance(device: str, num_threads: int, seed: int | None = None) -> Provenance:
    """Return the provenance of a number that is computed now, by this process."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join(os.path.basename(a) if os.path.isabs(a) else a for a in sys.argv),
        device=device,
        num_threads=num_threads,
        packages=versions,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        git_commit=_git_commit(),
        seed=seed,
    )


def _git_commit() -> str | None:
    """Return the revision of the source tree this module runs from, or None when installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
