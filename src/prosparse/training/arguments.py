# SPDX-License-Identifier: Apache-2.0
"""From a recipe to transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from prosparse.training.recipe import Recipe
from prosparse.training.sharding import fsdp_arguments
from prosparse.training.trackers import tracker_arguments


def training_arguments(
    recipe: Recipe, folder: Path, device: str, precision: str, num_processes: int = 1
) -> TrainingArguments:
    """Return the arguments of a run.

    Args:
        recipe: The recipe.
        folder: Where trainer checkpoints go.
        device: `cpu` or `cuda`.
        precision: `float32` or `bfloat16` (autocast; weights and optimizer stay float32).
        num_processes: That share an optimizer step.
    """
    plan = recipe.training
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.regularization.schedule().num_steps,
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.accumulation(num_processes),
        learning_rate=plan.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": plan.final_learning_rate_ratio},
        warmup_steps=plan.warmup_steps,
        weight_decay=plan.weight_decay,
        adam_beta1=plan.beta1,
        adam_beta2=plan.beta2,
        max_grad_norm=plan.max_grad_norm,
        bf16=precision == "bfloat16",
        torch_compile=plan.compile,
        use_cpu=device == "cpu",
        seed=plan.seed,
        data_seed=plan.seed,
        # The data set is its own order: sample i of the mixture is a pure function of i.
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available() and device != "cpu",
        logging_strategy="steps",
        logging_steps=plan.log_every,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=plan.save_every,
        eval_strategy="no",
        logging_nan_inf_filter=False,  # it would hide what StopOnDivergence stops at
        **tracker_arguments(plan.report_to, Path(recipe.out).name),
        disable_tqdm=True,
        **(fsdp_arguments() if plan.sharding == "full" and num_processes > 1 else {}),
    )
    # On a machine with several GPUs the Trainer would wrap the model in nn.DataParallel, whose
    # replicas no hook's bookkeeping survives; several GPUs are used with torchrun.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
