# SPDX-License-Identifier: Apache-2.0
"""What a finished run leaves in words and numbers: its record, and notes for its model card."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prosparse.model.device import provenance
from prosparse.model.relufy import activation_of
from prosparse.records.codec import encode
from prosparse.records.files import read_log
from prosparse.records.run import StageRecord, TrainRecord

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from prosparse.training.milestones import Milestones
    from prosparse.training.recipe import Recipe
    from prosparse.training.trainer import ProSparseTrainer


def run_record(
    recipe: Recipe,
    model: PreTrainedModel,
    trainer: ProSparseTrainer,
    milestones: Milestones,
    tokens_per_step: int,
    precision: str,
    where: torch.device,
) -> TrainRecord:
    """Return the record of a run whose last step is done."""
    schedule = trainer.schedule
    # Exact where a sample has padding: the end of a stage always has a line.
    tokens_at = {line["step"]: line["tokens"] for line in read_log(trainer.log_path)}
    stages = tuple(
        StageRecord(
            name=schedule.stage_name(index),
            first_step=schedule.first_step(index),
            last_step=stage.until,
            start_factor=schedule.start_factor(index),
            end_factor=trainer.factor(stage.until),
            end_coefficient=trainer.factor(stage.until) * trainer.kappa,
            end_tokens=tokens_at.get(stage.until, stage.until * tokens_per_step),
        )
        for index, stage in enumerate(schedule.stages)
    )
    seconds = trainer.clock.seconds()
    num_tokens = trainer.tokens_seen
    return TrainRecord(
        model=recipe.model,
        recipe=encode(recipe),
        activation=activation_of(model),
        stages=stages,
        milestones=tuple(milestones.reached),
        num_steps=schedule.num_steps,
        num_tokens=num_tokens,
        tokens_per_step=tokens_per_step,
        seconds=seconds,
        tokens_per_second=num_tokens / seconds,
        precision=precision,
        provenance=provenance(where, recipe.training.seed),
    )


def card_notes(record: TrainRecord) -> list[str]:
    """Return what the model card says about training."""
    last = record.stages[-1]
    notes = [
        f"Trained for {record.num_tokens:,} tokens in {record.num_steps:,} steps of "
        f"{record.tokens_per_step:,}, final lambda {last.end_factor:g} "
        f"(c = {last.end_coefficient:.3g}), on {_mixture(record.recipe['data']['components'])}."
    ]
    if record.milestones:
        final = record.milestones[-1]
        notes.append(
            f"Activation sparsity {final.sparsity:.4f}, mean over layers, on "
            + ", ".join(f"{m.num_tokens:,} tokens of {m.data}" for m in final.data)
            + "; perplexity "
            + ", ".join(
                f"{m.perplexity:.2f} ± {m.perplexity_stderr:.2f} ({m.data})" for m in final.data
            )
            + "."
        )
    return notes


def _mixture(components: dict[str, dict[str, Any]]) -> str:
    """Return what a model was trained on, in words; of paths on a machine only the last part."""
    total = sum(component["weight"] or 0 for component in components.values())
    told = []
    for name, component in components.items():
        path = component["path"]
        place = os.path.basename(path) if os.path.isabs(path) else path
        share = f", {component['weight'] / total:.0%}" if component["weight"] else ""
        told.append(f"{name} (`{place}`{share})")
    return ", ".join(told)
