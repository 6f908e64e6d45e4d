# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: local files or a Hugging Face data set, read as one stream of texts.

Everything is streamed through `datasets`, so memory does not grow with the data. JSON lines go
through its *text* reader and are decoded here, one by one: its JSON reader infers one schema from
blocks of lines and stumbles over optional or mixed fields that nobody asked for, and it cannot
say which line was broken.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".txt": "text",
    ".parquet": "parquet",
}
"""Suffix of a local file -> how it is read; `json` means one JSON object per line."""
COMPRESSIONS = (".xz", ".zst", ".gz")


@dataclass(frozen=True, slots=True)
class Source:
    """Documents on disk or on the Hugging Face hub."""

    path: str
    """A file, folder or glob of `.jsonl` (also `.xz`, `.zst`, `.gz`), `.txt` or `.parquet`, or the
    id of a data set on the hub, e.g. `wikimedia/wikipedia`. A `.txt` file is one document."""
    split: str = "train"
    """Split of a hub data set."""
    config: str | None = None
    """Configuration of a hub data set, e.g. `20231101.en`."""
    text_field: str = "text"
    """The field of each row that holds the text."""


def documents(source: Source, name: str) -> Iterator[str]:
    """Yield the texts of `source` in order; empty ones are left out.

    Args:
        source: Local files, read in the order of their sorted paths, or a hub data set.
        name: The data component's name, for messages.

    Raises:
        UserError: Something is missing, broken or empty; names the component, the file and,
            where there is one, the line.
    """
    files = local_files(source, name)
    if files is None:
        rows = _hub_rows(source, name)
    else:
        rows = (row for file in files for row in _file_rows(file, source.text_field, name))
    is_empty = True
    for where, row in rows:
        text = _text(row, source.text_field, where)
        if text:
            is_empty = False
            yield text
    if is_empty:
        raise UserError(f"Data component '{name}': {source.path} holds no text.")


def local_files(source: Source, name: str) -> list[Path] | None:
    """Return the files of `source` by sorted path, or None when it names a hub data set.

    Raises:
        UserError: The path looks like a file's but there is none, a folder has no file to read, a
            file's suffix is unknown, or a setting for hub data sets is given with local files.
    """
    where = f"Data component '{name}': {source.path}"
    path = Path(source.path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _format(file) and file.is_file())
        if not files:
            raise UserError(f"{where} is a folder without {', '.join(FORMATS)} files.")
    else:
        matches = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))
        files = sorted(file for file in matches if file.is_file())
    if not files:
        if _looks_like_a_path(source.path):
            raise UserError(f"{where} does not exist.")
        return None
    for file in files:
        if _format(file) is None:
            raise UserError(
                f"Data component '{name}': {file} is none of {', '.join(FORMATS)} "
                f"(plain or {', '.join(COMPRESSIONS)})."
            )
    if source.config is not None or source.split != "train":
        raise UserError(f"{where} is local, but 'split' and 'config' are for hub data sets.")
    return files


def _file_rows(file: Path, text_field: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) for each row of a local file; a row of a `.txt` is the whole file."""
    where = f"Data component '{name}': {file}"
    if file.suffix.lower() == ".zst":
        _require("zstandard", where)
    # A name may hold [ or *, which `datasets` would expand.
    data_files = glob.escape(str(file))
    kind = _format(file)
    if kind == "parquet":
        rows = _load(where, "parquet", data_files=data_files, split="train")
        for number, row in enumerate(rows, start=1):
            yield f"{where}, row {number},", row
    elif kind == "text":
        rows = _load(where, "text", data_files=data_files, split="train", sample_by="document")
        for row in rows:
            yield where, {text_field: row["text"]}
    else:
        rows = _load(where, "text", data_files=data_files, split="train")
        for number, row in enumerate(rows, start=1):
            line, place = row["text"], f"{where}, line {number},"
            if line and not line.isspace():
                yield place, _parse(line, place)


def _hub_rows(source: Source, name: str) -> Iterator[tuple[str, Any]]:
    where = f"Data component '{name}': {source.path} is no local file, and as a hub data set it"
    rows = _load(where, source.path, source.config, split=source.split)
    for number, row in enumerate(rows, start=1):
        yield f"Data component '{name}': {source.path}, row {number},", row


def _load(where: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Yield the rows of `datasets.load_dataset(*args, **kwargs)`, streamed."""
    _require("datasets", where)
    import datasets

    # Or every local file is counted by a call to a server, which offline is seconds of waiting.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield from datasets.load_dataset(*args, **kwargs, streaming=True)
    except Exception as error:
        # Decompressors, Arrow, the hub and the network share no base class. Nothing of ours runs
        # inside this block, so whatever failed was reading.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(f"{where} cannot be read: {reason}.") from error


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}.") from None


def _text(row: Any, field: str, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object with a field '{field}'.")
    if field not in row:
        found = ", ".join(map(str, row)) or "none"
        raise UserError(f"{where} lacks the field '{field}' (text_field); its fields: {found}.")
    text = row[field]
    if not isinstance(text, str):
        raise UserError(f"{where} has a '{field}' that is not a string: {reprlib.repr(text)}.")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which no tokenizer takes
        raise UserError(f"{where} has a '{field}' that is not valid Unicode.") from None
    return text


def _format(file: Path) -> str | None:
    """Return how a file is read, by its suffixes, or None when it cannot be."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    is_compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    if is_compressed:
        suffixes.pop()
    kind = FORMATS.get(suffixes[-1]) if suffixes else None
    return None if is_compressed and kind == "parquet" else kind


def _looks_like_a_path(path: str) -> bool:
    is_pattern = glob.has_magic(path)
    return is_pattern or path.startswith(("/", ".", "~")) or _format(Path(path)) is not None


def _require(package: str, where: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{where} needs '{package}': run pip install 'prosparse[data]'.")
