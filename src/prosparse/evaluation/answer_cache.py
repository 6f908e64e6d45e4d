# SPDX-License-Identifier: Apache-2.0
"""Answers on disk while they come, so that an interrupted evaluation goes on where it was.

A file holds the answers of one model, under one set of circumstances, to one task: a JSON line that tells
these, then one for each chunk of items, with what was counted while it was answered. A line cut short by
a kill is no line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prosparse.errors import UserError

OF_THE_MACHINE = ("device", "versions")
"""Circumstances that answers are taken regardless of where nothing is asked."""


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
    """The chunks of one file, by the hash of their requests.

    Args:
        path: It need not exist.
        circumstances: What may change an answer besides the model and what it is asked.
    """

    def __init__(self, path: Path, circumstances: dict[str, Any]) -> None:
        self._path = path
        self.circumstances = circumstances
        self._is_told = False
        self._chunks: dict[str, Chunk] = {}
        for entry in _entries(path):
            self._is_told |= "circumstances" in entry
            try:
                key = entry.pop("requests")
                self._chunks[key] = Chunk(**entry)
            except (KeyError, TypeError):
                continue

    def get(self, key: str) -> Chunk | None:
        """Return the chunk of this key, if it was answered."""
        return self._chunks.get(key)

    def add(self, key: str, chunk: Chunk) -> None:
        """Keep a chunk, on the disk before this returns."""
        self._chunks[key] = chunk
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"requests": key, **asdict(chunk)})]
        if not self._is_told:  # a new file, or one whose first line a kill cut short
            lines.insert(0, json.dumps({"circumstances": self.circumstances}))
            self._is_told = True
        with self._path.open("a", encoding="utf-8") as file:
            # What comes first ends whatever a kill left unfinished.
            file.write("".join(f"\n{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def open_answers(folder: Path, task: str, circumstances: dict[str, Any]) -> AnswerFile:
    """Return a model's answers to a task under these circumstances, none so far or more."""
    text = json.dumps(circumstances, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return AnswerFile(folder / f"{task}-{digest}.jsonl", circumstances)


def find_answers(folder: Path, task: str, circumstances: dict[str, Any]) -> AnswerFile:
    """Return a model's answers to a task that any machine gave, circumstances being the same otherwise.

    Raises:
        UserError: There are none, or those of several machines.
    """
    told = {path: _told(path) for path in sorted(folder.glob(f"{task}-*.jsonl"))}
    found = [
        path for path, there in told.items() if _but_machine(there) == _but_machine(circumstances)
    ]
    if len(found) != 1:
        raise UserError(
            f"The cache holds {len(found) or 'no'} sets of answers to {task} by this model with these "
            f"options ({folder}); --from-cache takes the one that is there. Give the precision, batch "
            "sizes and suite that the answers were given with."
        )
    return AnswerFile(found[0], told[found[0]])


def _told(path: Path) -> dict[str, Any]:
    tellings = (entry["circumstances"] for entry in _entries(path) if "circumstances" in entry)
    return next(tellings, {})


def _but_machine(circumstances: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in circumstances.items() if name not in OF_THE_MACHINE}


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            yield entry


def requests_key(kind: str, requests: list[tuple[Any, ...]]) -> str:
    """Return a hash of everything that a model is asked."""
    return hashlib.sha256(json.dumps([kind, requests]).encode()).hexdigest()


def default_cache() -> Path:
    """Return where answers are kept unless the caller says: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prosparse" / "evaluation"
