# SPDX-License-Identifier: Apache-2.0
"""Do our answers to local items agree with stock lm-eval's own HFLM, to the last one?

python benchmarks/evaluation_agreement.py MODEL ITEMS FOLDER [--tasks piqa,...] [--quick]

Both read the same checkpoint from disk, in float32, one item at a time. Every task of `--tasks` runs through
`lm_eval.simple_evaluate` as anyone may call it, with our tasks on its path, and through `ps.evaluate`.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import prosparse as ps
from prosparse.evaluation.suite import TASKS_FOLDER, SuiteTask, choose_tasks
from prosparse.records.codec import encode
from prosparse.records.files import whole_folder
from prosparse.reporting.grids import Grid
from prosparse.reporting.tables import markdown_table

HEADER = ("task", "answers", "items", "answers that differ", "scores that differ", "score")


def stock_samples(task: SuiteTask, model: HFLM, items: str, num_items: int | None) -> list[dict]:
    """Return what stock lm-eval asked, heard and scored."""
    where = {"data_dir": items, "num_items": num_items, "num_shots": task.shots}
    results = lm_eval.simple_evaluate(
        model,
        tasks=[task.name],
        task_manager=TaskManager(
            include_path=str(TASKS_FOLDER), include_defaults=False, metadata=where
        ),
        confirm_run_unsafe_code=True,
        bootstrap_iters=0,
    )
    return results["samples"][task.name]


def compare(task: SuiteTask, ours: list[dict], theirs: list[dict]) -> dict[str, Any]:
    """Return on how many items answers and scores differ."""
    other_answer = other_score = 0
    for item, sample in zip(ours, theirs, strict=True):
        assert item["id"] == str(sample["doc"]["id"])
        heard = [answer for (answer,) in sample["resps"]]
        if "loglikelihoods" in item:
            other_answer += item["loglikelihoods"] != [likelihood for likelihood, _ in heard]
        else:
            told = item.get("text", item.get("answer"))
            other_answer += json.dumps(told) != json.dumps(heard[0])
        other_score += json.dumps(item[task.metric]) != json.dumps(sample[task.metric])
    return {"num_items": len(ours), "other_answers": other_answer, "other_scores": other_score}


def main() -> None:
    """Evaluate twice, compare, write `agreement.json` and `report.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="Folder or .gguf file.")
    parser.add_argument("items")
    parser.add_argument("folder")
    parser.add_argument("--tasks", default="piqa,winogrande,lambada,nq_open,gsm8k,humaneval")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks = choose_tasks("paper", arguments.tasks.split(","))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = f"{scratch}/model"
        ps.load(arguments.model).save_pretrained(checkpoint)
        ps.load_tokenizer(arguments.model).save_pretrained(checkpoint)
        record = ps.evaluate(
            checkpoint,
            suite="quick" if arguments.quick else "paper",
            tasks=[task.name for task in tasks],
            data_dir=arguments.items,
            precision="float32",
            device="cpu",
            allow_code_execution=True,
            cache=f"{scratch}/cache",
            out=f"{scratch}/ours",
        )
        stock = HFLM(checkpoint, device="cpu", dtype="float32", batch_size=1)
        found, rows = {}, []
        for task, score in zip(tasks, record.models[0].tasks, strict=True):
            lines = Path(f"{scratch}/ours/items/0/{task.name}.jsonl").read_text(encoding="utf-8")
            ours = [json.loads(line) for line in lines.splitlines()]
            size = task.quick if arguments.quick else None
            theirs = stock_samples(task, stock, arguments.items, size)
            one = found[task.name] = compare(task, ours, theirs)
            counts = (one["num_items"], one["other_answers"], one["other_scores"])
            rows.append((task.title, task.answers, *map(str, counts), f"{score.score:.4f}"))
    with whole_folder(Path(arguments.folder)) as folder:
        written = {
            "model": Path(arguments.model).name,
            "tasks": found,
            "harness": record.harness,
            "provenance": encode(record.provenance),
        }
        (folder / "agreement.json").write_text(json.dumps(written, indent=1) + "\n")
        table = markdown_table(Grid(HEADER, tuple(rows), num_text_columns=2))
        (folder / "report.md").write_text(
            f"# Our answers and those of stock lm-eval\n\n{written['model']}, float32, one item at a time, "
            f"{record.provenance.device}, lm-eval {record.harness['lm-eval']}. An answer differs when any "
            f"log-likelihood differs in any bit, or any character of a text.\n\n{table}\n"
        )
        print(table)


if __name__ == "__main__":
    main()
