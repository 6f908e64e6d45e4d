# SPDX-License-Identifier: Apache-2.0
"""`prosparse evaluate`: models on the paper's benchmarks, side by side."""

from __future__ import annotations

import json
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosparse.evaluation.answer_cache import default_cache
from prosparse.evaluation.batches import Batches
from prosparse.evaluation.model_card import write_cards
from prosparse.evaluation.paired import changed_answers, differences
from prosparse.evaluation.preparation import (
    check_options,
    check_tokenizer,
    load_tasks,
    short_names,
)
from prosparse.evaluation.suite import choose_tasks, load_suite
from prosparse.model.device import choose_device, forward_precision, provenance
from prosparse.records.evaluation import EvaluationRecord
from prosparse.records.files import refuse_existing, whole_folder, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prosparse.evaluation.one_model import Answered
    from prosparse.records.evaluation import TaskScore

ITEMS_FOLDER = "items"
PROMPTS_FOLDER = "prompts"


def evaluate(
    models: str | Path | Sequence[str | Path],
    *,
    suite: str = "paper",
    tasks: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    backend: str | Sequence[str] = "dense",
    predictors: str | Path | None = None,
    batch_size: int = 1,
    generation_batch_size: int | None = None,
    chat: bool = False,
    allow_code_execution: bool = False,
    average_what_is_there: bool = False,
    precision: str = "auto",
    device: str = "auto",
    cache: str | Path | None = None,
    from_cache: bool = False,
    card: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
    on_score: Callable[[str, TaskScore], None] | None = None,
) -> EvaluationRecord:
    """Return what models score on the paper's benchmarks (Tables 1 and 3 of ProSparse).

    Args:
        models: Folders, GGUF files or hub ids; the others are held against the first.
        suite: `paper` for all items, `quick` for a fixed sample of each task.
        tasks: Only these; None runs all of the suite, leaving out those whose items are not there.
        data_dir: Folder of local items (docs/evaluation.md has the layout); None reads from the hub.
        backend: `dense`, `sparse` or `predicted` (see `prosparse.accelerate`); several run each model on
            each.
        predictors: Of `predicted`: the folder of `prosparse predictor fit`.
        batch_size: Items in one pass. With 1 no item's numbers depend on another's; a larger one is
            the same but for rounding, which can turn an answer that was close.
        generation_batch_size: The same where the model writes; None is `batch_size`. It can be larger:
            scoring a text takes the logits of all its tokens, writing only those of the last.
        chat: Send prompts through the model's chat template.
        allow_code_execution: Run code that a model wrote, confined (HumanEval, MBPP); without this these
            tasks are left out.
        average_what_is_there: Average over tasks that have scores although others are missing.
        precision: Dtype of the weights: `float32`, `bfloat16`, or `auto` for the faster here.
        device: `auto`, `cpu`, `cuda`, ...
        cache: Folder where answers are kept as they come; None is the user's cache folder.
        from_cache: Ask nothing; take the answers that `cache` holds, whatever device and versions gave
            them. Precision, batch sizes and suite must be those they were given with.
        card: Write the scores into the README of each model, which must be a local folder.
        out: Folder for `record.json` and every item's answer; None writes nothing.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with a checkpoint.
        progress: Show progress bars.
        on_score: Called with a model's name and each score as it comes.

    Raises:
        UserError: lm-eval is not installed, an option is out of range, a named task's items are not
            there, a model cannot be used, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> record = ps.evaluate("runs/demo/model", suite="quick", tasks=["piqa", "copa"])
        >>> [(task.title, task.score, task.stderr) for task in record.models[0].tasks]
    """
    started = time.monotonic()
    paths = [models] if isinstance(models, str | Path) else list(models)
    backends = [backend] if isinstance(backend, str) else list(backend)
    if out is not None:
        refuse_existing(Path(out), overwrite)
    batches = Batches(
        scoring=batch_size,
        generation=batch_size if generation_batch_size is None else generation_batch_size,
    )
    check_options(paths, backends, predictors, batches, card)
    where = choose_device(device)
    dtype = forward_precision(precision, where)
    chosen = choose_tasks(suite, tasks)
    loaded, missing = load_tasks(
        chosen, suite, data_dir, allow_code_execution, is_named=tasks is not None
    )
    for path in paths:
        check_tokenizer(path, chat, trust_remote_code)

    from prosparse.evaluation.one_model import Circumstances, answer_all

    circumstances = Circumstances(
        device=where,
        dtype=dtype,
        predictors=None if predictors is None else Path(predictors),
        batches=batches,
        is_chat=chat,
        suite=suite,
        source="hub" if data_dir is None else str(data_dir),
        cache=default_cache() if cache is None else Path(cache),
        from_cache=from_cache,
        average_what_is_there=average_what_is_there,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
    answered = [
        answer_all(name, path, run_on, loaded, circumstances, on_score)
        for (path, run_on), name in short_names(paths, backends).items()
    ]
    record = EvaluationRecord(
        model=str(paths[0]),
        suite=suite,
        is_chat=chat,
        models=tuple(one.scores for one in answered),
        columns=load_suite().columns,
        missing=tuple(missing),
        averages_what_is_there=average_what_is_there,
        **_compared(answered),
        train_split_in={
            task.name: task.train_split_in for task, _ in loaded if task.train_split_in
        },
        items_in={task.name: task.items_in for task, _ in loaded if task.items_in},
        seconds=time.monotonic() - started,
        provenance=provenance(where),
        harness={name: metadata.version(name) for name in ("lm-eval", "datasets")},
    )
    if out is not None:
        with whole_folder(Path(out), overwrite) as folder:
            _write_items(answered, folder)
            write_record(record, folder)
    if card:
        write_cards(record)
    return record


def _compared(answered: Sequence[Answered]) -> dict[str, Any]:
    """Return each model's differences to the first, and what backends change in one model."""
    first, *others = answered
    columns = load_suite().columns
    found = [
        difference
        for other in others
        for difference in differences(
            other.scores.name, first.scores.name, other.items, first.items, columns
        )
    ]
    changed = [
        change
        for index, one in enumerate(answered)
        for other in answered[index + 1 :]
        if one.scores.hash == other.scores.hash
        for change in changed_answers(other.scores.name, one.scores.name, other.items, one.items)
    ]
    return {"differences": tuple(found), "changed_answers": tuple(changed)}


def _write_items(answered: Sequence[Answered], folder: Path) -> None:
    """Write every item's answer, and of each task the first prompt whole, examples and all."""
    for number, one in enumerate(answered):
        items = folder / ITEMS_FOLDER / str(number)
        items.mkdir(parents=True)
        for task, found in one.items.items():
            lines = (json.dumps(item.told, ensure_ascii=False) for item in found)
            (items / f"{task}.jsonl").write_text(
                "".join(f"{line}\n" for line in lines), encoding="utf-8"
            )
    prompts = folder / PROMPTS_FOLDER
    prompts.mkdir()
    for task, prompt in answered[0].prompts.items():
        (prompts / f"{task}.txt").write_text(prompt, encoding="utf-8")
