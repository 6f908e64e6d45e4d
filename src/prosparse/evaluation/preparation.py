# SPDX-License-Identifier: Apache-2.0
"""Everything that can be wrong, found before a model is loaded: options, tokenizers, the tasks' items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.evaluation.backends import check_backends
from prosparse.evaluation.model_card import check_cards
from prosparse.evaluation.sandbox import check_confinement
from prosparse.evaluation.suite import SuiteTask, load_suite
from prosparse.evaluation.task_data import MissingData
from prosparse.model.checkpoint import load_tokenizer
from prosparse.records.evaluation import NOT_CHOSEN, MissingTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval.api.task import ConfigurableTask

    from prosparse.evaluation.batches import Batches


def check_options(
    paths: list[str | Path],
    backends: list[str],
    predictors: str | Path | None,
    batches: Batches,
    card: bool,
) -> None:
    """Raise unless the options go together and lm-eval is there.

    Raises:
        UserError: They do not, or it is not.
    """
    if not paths:
        raise UserError("No model was named; give at least one folder, .gguf file or hub id.")
    if len({str(path) for path in paths}) < len(paths):
        raise UserError("A model is named twice; name each once.")
    if len(set(backends)) < len(backends):
        raise UserError("A backend is named twice; name each once.")
    check_backends(backends, predictors)
    for option, size in (
        ("--batch-size", batches.scoring),
        ("--generation-batch-size", batches.generation),
    ):
        if size < 1:
            raise UserError(f"{option} must be at least 1; found {size}.")
        if size > 1 and backends != ["dense"]:
            raise UserError(
                f"{option} {size} leaves the sparse path, which is for few tokens at once; "
                f"evaluate it with {option} 1."
            )
    if card:
        check_cards(paths)
    try:
        import lm_eval  # noqa: F401
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Benchmarks need lm-eval ({error}): pip install 'prosparse[eval]'."
        ) from None


def check_tokenizer(path: str | Path, chat: bool, trust_remote_code: bool) -> None:
    """Raise early what would otherwise come after another model's hours.

    Raises:
        UserError: There is no tokenizer, or no chat template where one is needed.
    """
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    if chat and tokenizer.chat_template is None:
        raise UserError(f"{path} has no chat template; evaluate it without --chat.")


def load_tasks(
    chosen: Sequence[SuiteTask],
    suite: str,
    data_dir: str | Path | None,
    allow_code_execution: bool,
    *,
    is_named: bool,
) -> tuple[list[tuple[SuiteTask, ConfigurableTask]], list[MissingTask]]:
    """Return the tasks that can run, and why others cannot.

    Args:
        chosen: Those to run.
        suite: `quick` takes a sample of each.
        data_dir: Folder of local items; None reads from the hub.
        allow_code_execution: Whether tasks may run that judge code by running it.
        is_named: Whether the caller named them one by one, so that each must be there.

    Raises:
        UserError: A named task, or every task, cannot run.
    """
    from prosparse.evaluation.harness import load_task

    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise UserError(f"--data-dir {data_dir} is no folder.")
    if allow_code_execution and any(task.runs_code for task in chosen):
        check_confinement()
    loaded, missing = [], []
    for task in load_suite().tasks:
        if task not in chosen:
            missing.append(MissingTask(task.name, NOT_CHOSEN))
        elif task.runs_code and not allow_code_execution:
            reason = "it runs code that the model wrote: allow it with --allow-code-execution"
            if is_named:
                raise UserError(f"{task.name} was not evaluated: {reason}.")
            missing.append(MissingTask(task.name, reason))
        else:
            try:
                num_items = task.quick if suite == "quick" else None
                folder = None if data_dir is None else str(data_dir)
                loaded.append((task, load_task(task, folder, num_items)))
            except MissingData as error:
                if is_named:
                    raise
                missing.append(MissingTask(task.name, str(error)))
    if not loaded:
        raise UserError(f"No task can run; the first: {missing[0].task}: {missing[0].reason}")
    return loaded, missing


def short_names(paths: list[str | Path], backends: list[str]) -> dict[tuple[str, str], str]:
    """Return a short name for each model on each backend, no two alike."""
    parts = {str(path): [part for part in str(path).split("/") if part] for path in paths}
    for depth in range(1, max(map(len, parts.values())) + 1):
        names = {path: "/".join(part[-depth:]) for path, part in parts.items()}
        if len(set(names.values())) == len(parts):
            break
    else:  # they differ in their slashes alone
        names = {path: path for path in parts}
    return {
        (path, backend): f"{name} ({backend})" if len(backends) > 1 else name
        for path, name in names.items()
        for backend in backends
    }
