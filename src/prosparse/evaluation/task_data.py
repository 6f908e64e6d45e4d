# SPDX-License-Identifier: Apache-2.0
"""The items of a benchmark task, from local JSONL or from the hub, in one layout.

lm-eval calls `task_data` for every task of ours (`custom_dataset` in `tasks/*.yaml`), so stock
lm-eval reads the same items: `lm_eval --include_path ... --metadata '{"data_dir": "..."}'`. The
prompts know one layout only, that of the local files (docs/evaluation.md); rows of the hub are
brought into it by the expressions in the task's YAML.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from prosparse.data.sources import COMPRESSIONS, Source, rows
from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from datasets import DatasetDict

Row = dict[str, Any]


class MissingData(UserError):
    """A task's items are not where they were looked for."""


def task_data(
    *,
    file: str,
    hub: dict[str, Any],
    shots: dict[str, Any] | None = None,
    data_dir: str | None = None,
    num_items: int | None = None,
    num_shots: int | None = None,
    **_metadata: Any,
) -> DatasetDict:
    """Return a task's items as the split `test`.

    Args:
        file: Name of the local file; `.xz`, `.zst` or `.gz` may follow it on the disk.
        hub: Where the hub has them: `path`, `name`, `split`, `fields` (an expression for each field of
            the layout), `subsets` (one data set or configuration for each), `only` (a condition).
        shots: Where the examples come from: `file` or `examples`; `by` joins on a field, `skip` leaves
            out the first, `num_in_each` says that one row holds that many.
        data_dir: Folder of the local files; None reads from the hub.
        num_items: Take a fixed sample of this many; None takes all.
        num_shots: Examples for each item; None takes all there are.

    Raises:
        MissingData: There is no such file, an item lacks a field, the hub cannot be read, or there are
            too few examples for an item.
    """
    from datasets import Dataset, DatasetDict

    items = list(_from_hub(hub) if data_dir is None else _local(data_dir, file, hub["fields"]))
    if not items:
        raise MissingData(f"{file} has no items.")
    if num_items is not None:
        items = sample(items, num_items)
    if shots is not None:
        examples = _examples(shots, hub, data_dir)
        items = [{**item, "shots": _shots_of(item, examples, shots, num_shots)} for item in items]
    return DatasetDict({"test": Dataset.from_list(items)})


def sample(items: list[Row], num_items: int) -> list[Row]:
    """Return the items whose ids hash lowest, in their own order: the same ones in any file."""
    lowest = sorted(items, key=lambda item: hashlib.sha256(str(item["id"]).encode()).digest())
    chosen = {str(item["id"]) for item in lowest[:num_items]}
    return [item for item in items if str(item["id"]) in chosen]


def _local(data_dir: str, file: str, fields: Iterable[str] = ()) -> Iterator[Row]:
    folder = Path(data_dir).expanduser()
    candidates = [folder / file, *(folder / f"{file}{suffix}" for suffix in COMPRESSIONS)]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise MissingData(f"There is no {file} (plain, .xz, .zst or .gz) in {data_dir}.")
    for where, row in rows(Source(path=str(path)), file):
        missing = [field for field in fields if field not in row]
        if missing:
            raise MissingData(f"{where} lacks the field '{missing[0]}'.")
        yield row


def _from_hub(hub: dict[str, Any], split: str | None = None) -> Iterator[Row]:
    """Yield the hub's rows in our layout; `row` and `subset` are names that expressions may use."""
    compiled = {field: _expression(text) for field, text in hub["fields"].items()}
    is_wanted = _expression(hub.get("only", "true"))
    for subset in hub.get("subsets", [""]):
        path, name = (str(hub.get(key) or "").format(subset=subset) for key in ("path", "name"))
        source = Source(path=path, config=name or None, split=split or hub["split"])
        try:
            for number, (_, row) in enumerate(rows(source, path)):
                known = {"subset": subset, **row, "row": number}
                if is_wanted(**known):
                    yield {field: value(**known) for field, value in compiled.items()}
        except UserError as error:
            raise MissingData(f"{error} Local copies can be given by --data-dir.") from error


def _expression(text: str) -> Callable[..., Any]:
    from jinja2 import Environment

    environment = Environment()
    environment.filters.update(
        plain=_plain,
        without_letter=_without_letter,
        without_prefix=lambda value, prefix: value.removeprefix(prefix).strip(),
    )
    return environment.compile_expression(text)


def _without_letter(option: str) -> str:
    return re.sub(r"^\s*\([A-Z]\)\s*", "", option)


def _plain(text: str) -> str:
    """Return a HellaSwag text without the marks of WikiHow's headings."""
    marked = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return marked.replace("  ", " ")


def _examples(shots: dict[str, Any], hub: dict[str, Any], data_dir: str | None) -> list[Row]:
    if "examples" in shots:
        return shots["examples"]
    if data_dir is not None:
        found = list(_local(data_dir, shots["file"]))
    elif "prompts" in hub:
        found = list(_harness_prompts(hub["prompts"], hub["subsets"]))
    else:
        found = list(_from_hub(hub, hub["shots_split"]))
    return found[shots.get("skip", 0) :]


def _harness_prompts(folder: str, subsets: list[str]) -> Iterator[Row]:
    """Yield a row with the chain-of-thought prompt of each subset, as lm-eval ships them."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent / folder
    for subset in subsets:
        config = yaml.safe_load((root / f"{subset}.yaml").read_text(encoding="utf-8"))
        asked = [
            f"Q: {example['input']}\nA: Let's think step by step.\n{example['target']}"
            for example in config["fewshot_config"]["samples"]
        ]
        yield {"subset": subset, "prompt": "\n\n".join([config["description"].strip(), *asked])}


def _shots_of(
    item: Row, examples: list[Row], shots: dict[str, Any], num_shots: int | None
) -> list[Row]:
    by = shots.get("by")
    fitting = [example for example in examples if by is None or example[by] == item[by]]
    in_each = shots.get("num_in_each", 1)
    wanted = len(fitting) * in_each if num_shots is None else num_shots
    if not fitting or len(fitting) * in_each < wanted:
        raise MissingData(
            f"There are {len(fitting) * in_each} examples for item {item['id']}, not {wanted}."
        )
    return fitting[: -(-wanted // in_each)]
