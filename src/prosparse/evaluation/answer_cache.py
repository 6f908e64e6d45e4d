# SPDX-License-Identifier: Apache-2.0
"""Answers on disk while they come, so that an interrupted evaluation goes on where it was.

A file holds the answers of one model, under one set of circumstances, to one task: a JSON line for each
chunk of items, with what was counted while it was answered. A line cut short by a kill is no line.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Chunk:
    """Answers to some requests, and what was counted meanwhile."""

    answers: list[Any]
    """[log-likelihood, is greedy] each, a text each, or a log-likelihood each."""
    seconds: float = 0.0
    active_L: list[int] = field(default_factory=list)
    """Active entries of x_1 by layer; empty where nothing was counted."""
    num_tokens: int = 0
    num_unended: int = 0
    num_cut_prompts: int = 0


class AnswerFile:
    """The chunks of one file, by the hash of their requests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chunks: dict[str, Chunk] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    key = entry.pop("requests")
                    self._chunks[key] = Chunk(**entry)
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                    continue

    def get(self, key: str) -> Chunk | None:
        """Return the chunk of this key, if it was answered."""
        return self._chunks.get(key)

    def add(self, key: str, chunk: Chunk) -> None:
        """Keep a chunk, on the disk before this returns."""
        self._chunks[key] = chunk
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"requests": key, **asdict(chunk)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the first ends whatever a kill left unfinished
            file.flush()
            os.fsync(file.fileno())


def requests_key(kind: str, requests: list[tuple[Any, ...]]) -> str:
    """Return a hash of everything that a model is asked."""
    return hashlib.sha256(json.dumps([kind, requests]).encode()).hexdigest()


def default_cache() -> Path:
    """Return where answers are kept unless the caller says: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prosparse" / "evaluation"
