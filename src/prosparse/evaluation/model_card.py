# SPDX-License-Identifier: Apache-2.0
"""Scores in a checkpoint's README: a table to read, and the metadata that the hub shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.records.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prosparse.records.evaluation import EvaluationRecord, ModelScores

BEGIN, END = "<!-- prosparse evaluate -->", "<!-- end of prosparse evaluate -->"


def check_cards(models: Sequence[str | Path]) -> None:
    """Raise unless every model is a local folder.

    Raises:
        UserError: One is not, so it has no README to write to.
    """
    for model in models:
        if not Path(model).is_dir():
            raise UserError(f"--card writes into a model's folder, and {model} is none.")


def write_cards(record: EvaluationRecord) -> None:
    """Write each model's scores into its README, in place of those of an earlier evaluation."""
    for scores in record.models:
        path = Path(scores.model) / "README.md"
        if scores.backend == record.models[0].backend:  # of several backends the first
            write_whole(path, _card(path, scores, record))


def _card(path: Path, scores: ModelScores, record: EvaluationRecord) -> str:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    text = path.read_text(encoding="utf-8") if path.is_file() else "---\n{}\n---\n"
    card = ModelCard(text, ignore_metadata_errors=True)
    data = card.data.to_dict()
    data.pop("model-index", None)
    data.pop("model_name", None)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task.task,
            dataset_name=f"{task.title} ({task.num_shots}-shot, {task.num_items} items)",
            metric_type=task.metric,
            metric_value=task.score,
            metric_config=f"standard error {task.stderr:.4f}",
            source_name="prosparse evaluate, on lm-evaluation-harness",
            source_url="https://arxiv.org/abs/2402.13516",
        )
        for task in scores.tasks
    ]
    name = Path(scores.model).resolve().name
    card.data = ModelCardData(model_name=name, eval_results=results, **data)
    without = re.sub(f"\n?{BEGIN}.*?{END}\n?", "", str(card.text), flags=re.DOTALL)
    card.text = f"{without.rstrip()}\n\n{_section(scores, record)}\n"
    return str(card)


def _section(scores: ModelScores, record: EvaluationRecord) -> str:
    rows = "\n".join(
        f"| {task.title} | {task.num_shots} | {task.metric} | {task.num_items} | {_told(task.score, task.stderr)} |"
        for task in scores.tasks
    )
    versions = ", ".join(f"{name} {version}" for name, version in record.harness.items())
    return (
        f"{BEGIN}\n## Evaluation\n\n| task | shots | metric | items | score |\n"
        f"| :--- | ---: | :--- | ---: | ---: |\n{rows}\n\n"
        f"`{record.provenance.command}`, suite `{record.suite}`, {scores.backend} in {scores.dtype}, "
        f"{versions}, {record.provenance.date[:10]}. ± is one standard error.\n{END}"
    )


def _told(score: float, stderr: float) -> str:
    if score > 1:  # a perplexity
        return f"{score:.2f} ± {stderr:.2f}"
    return f"{100 * score:.2f} ± {100 * stderr:.2f} %"
