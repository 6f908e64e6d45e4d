# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: local files or a Hugging Face data set, read as one stream of rows.

Everything is streamed through `datasets`, so memory does not grow with the data. JSON lines go
through its *text* reader and are decoded here, one by one: its JSON reader infers one schema from
blocks of lines and stumbles over optional or mixed fields that nobody asked for, and it cannot
say which line was broken.
"""

from __future__ import annotations

import glob
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    """Documents on disk or on the Hugging Face hub.

    A document is the text of one field, unless `prompt` with `answer` or `messages_field` says
    otherwise. Those two and `prompt_chars_field` also say which part of it is an answer.
    """

    path: str
    """A file, folder or glob of `.jsonl` (also `.xz`, `.zst`, `.gz`), `.txt` or `.parquet`, or the
    id of a data set on the hub, e.g. `wikimedia/wikipedia`. A `.txt` file is one document."""
    split: str = "train"
    """Split of a hub data set."""
    config: str | None = None
    """Configuration of a hub data set, e.g. `20231101.en`."""
    shuffle_buffer: int = 0
    """Rows of a hub data set to draw the next one from; its files are then taken in random order
    too. 0 reads it in order."""
    text_field: str = "text"
    """The field of each row that holds the text."""
    prompt_chars_field: str | None = None
    """The field that says how many characters of the text are its prompt; the rest is an answer."""
    prompt: str | None = None
    """Template of the prompt, fields of the row in braces: `"{question}\\n"`, `"{set[0]}\\n"`."""
    answer: str | None = None
    """Template of the answer that follows the prompt."""
    messages_field: str | None = None
    """The field that holds a conversation: `{role, content}` objects, or plain texts of user and
    assistant in turn. The tokenizer's chat template makes a text of it."""

    def __post_init__(self) -> None:
        if self.shuffle_buffer < 0:
            raise UserError(f"shuffle_buffer must be >= 0; found {self.shuffle_buffer}.")
        if (self.prompt is None) != (self.answer is None):
            raise UserError("'prompt' and 'answer' go together: give both templates or neither.")
        forms = {
            "prompt_chars_field": self.prompt_chars_field,
            "prompt and answer": self.prompt,
            "messages_field": self.messages_field,
        }
        given = [name for name, value in forms.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"A row is read in one way; found {' with '.join(given)}.")
        for template in (self.prompt, self.answer):
            try:
                list(Formatter().parse(template or ""))
            except ValueError as error:
                raise UserError(f"The template {template!r} is broken: {error}.") from None

    @property
    def tells_answers(self) -> bool:
        """Whether it says which part of a document is an answer."""
        return any((self.prompt_chars_field, self.prompt, self.messages_field))


def as_sources(data: Mapping[str, str | Path | Source]) -> dict[str, Source]:
    """Return data sets by name as sources: a path or hub id alone is one with all else as by default."""
    return {
        name: given if isinstance(given, Source) else Source(path=str(given))
        for name, given in data.items()
    }


def rows(source: Source, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) for each row of `source` in order; the place is for messages.

    Args:
        source: Local files, read in the order of their sorted paths, or a hub data set.
        name: The data component's name, for messages.

    Raises:
        UserError: Something is missing or broken, or a row is no object.
    """
    files = local_files(source, name)
    if files is None:
        found = _hub_rows(source, name)
    else:
        found = (row for file in files for row in _file_rows(file, source.text_field, name))
    for where, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object with a field '{source.text_field}'.")
        yield where, row


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
    if source.config is not None or source.split != "train" or source.shuffle_buffer:
        raise UserError(
            f"{where} is local, but 'split', 'config' and 'shuffle_buffer' are for hub data sets."
        )
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
    rows = _load(where, source.path, source.config, source.shuffle_buffer, split=source.split)
    for number, row in enumerate(rows, start=1):
        yield f"Data component '{name}': {source.path}, row {number},", row


def _load(
    where: str, path: str, config: str | None = None, shuffle_buffer: int = 0, **kwargs: Any
) -> Iterator[Any]:
    """Yield the rows of `datasets.load_dataset(path, config, **kwargs)`, streamed."""
    _require("datasets", where)
    import datasets

    # Or every local file is counted by a call to a server, which offline is seconds of waiting.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        found = datasets.load_dataset(path, config, **kwargs, streaming=True)
        if shuffle_buffer:  # one order for all: which documents are read is no matter of the seed
            found = found.shuffle(seed=0, buffer_size=shuffle_buffer)
        yield from found
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
