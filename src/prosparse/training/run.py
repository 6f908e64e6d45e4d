# SPDX-License-Identifier: Apache-2.0
"""`prosparse train`: steps 1 and 2 of ProSparse from a recipe, resumable at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    default_data_collator,
    set_seed,
)

from prosparse.data.mixture import Mixture, build_mixture
from prosparse.measurement.run import read_windows
from prosparse.model.checkpoint import load_tokenizer, save
from prosparse.model.device import choose_device, forward_precision
from prosparse.model.ffn import ffns
from prosparse.records.files import refuse_existing, write_record
from prosparse.records.lock import alone
from prosparse.records.run import TrainRecord
from prosparse.training.adapters import check_peft
from prosparse.training.arguments import training_arguments
from prosparse.training.callbacks import Progress, StageEnds, StopOnInterrupt
from prosparse.training.checkpoints import step_of, told_when_unwritten
from prosparse.training.distillation import Distiller
from prosparse.training.divergence import StopOnDivergence
from prosparse.training.milestones import Milestones, OnMilestone, tell_again
from prosparse.training.outcome import card_notes, run_record
from prosparse.training.recipe import Recipe
from prosparse.training.recipe_file import load_recipe
from prosparse.training.regularizer import kappa
from prosparse.training.sharded_checkpoints import ShardedCheckpoints
from prosparse.training.sharding import is_sharded, whole_weights
from prosparse.training.starting_model import distiller, recompute_activations, starting_model
from prosparse.training.steering import Steering
from prosparse.training.trackers import check_trackers, tracker_callbacks
from prosparse.training.trainer import ProSparseTrainer
from prosparse.training.workspace import Interrupted, Workspace, finished_record


def train(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    trust_remote_code: bool = False,
    on_milestone: OnMilestone | None = None,
    progress: bool = True,
) -> TrainRecord:
    """ReLUfy a model and train it under progressive sparsity regularization.

    The folder `recipe.out` gets the trained checkpoint, `record.json`, `recipe.yaml` with every
    default filled in, and `log.jsonl`. Until then the run is in `<out>.unfinished/`. One process
    uses one GPU; for more, call this from a script under `torchrun`. The main process measures and
    writes, so milestones are in its record only.

    Args:
        recipe: YAML file, or a `Recipe`.
        overrides: `key.path=value` each, applied to a YAML file.
        resume: Go on with an unfinished run from its last checkpoint, if there is one; of a finished
            run, only tell its milestones again.
        overwrite: Start again over an unfinished run, and replace `out` at the end.
        device: `auto`, `cpu` or `cuda`.
        trust_remote_code: Run modeling code that comes with the checkpoint.
        on_milestone: Called with each measured milestone: the dense model, ReLU swapped in, the
            end of each stage.
        progress: Show progress bars.

    Raises:
        UserError: The recipe, the model or the data cannot be used, or `out` exists.
        KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint was saved, and the message says how to go
            on.
        RunStopped: Loss or gradient is no longer finite, or the loss jumped; what was done before
            is saved.

    Example:
        >>> import prosparse as ps
        >>> record = ps.train("recipes/demo.yaml", overrides=["out=runs/demo"])
        >>> [milestone.sparsity for milestone in record.milestones]
    """
    recipe = load_recipe(recipe, overrides)
    if resume and isinstance(done := finished_record(recipe), TrainRecord):
        tell_again(done.milestones, on_milestone)
        return done
    recipe.check_inputs(trust_remote_code=trust_remote_code)
    check_trackers(recipe.training.report_to)
    if recipe.lora is not None:
        check_peft()
    processes = PartialState(cpu=choose_device(device).type == "cpu")
    out = Path(recipe.out)
    refuse_existing(out, overwrite)
    with alone(out, wait=False) if processes.is_main_process else nullcontext():
        return _train(
            recipe, processes, resume, overwrite, device, trust_remote_code, on_milestone, progress
        )


def _train(
    recipe: Recipe,
    processes: PartialState,
    resume: bool,
    overwrite: bool,
    device: str,
    trust_remote_code: bool,
    on_milestone: OnMilestone | None,
    progress: bool,
) -> TrainRecord:
    where = choose_device(device)
    precision = forward_precision(recipe.training.precision, where)
    set_seed(recipe.training.seed)
    is_main, progress = processes.is_main_process, progress and processes.is_main_process
    tokens_per_step = recipe.tokens_per_step(processes.num_processes)

    with processes.main_process_first():  # it prepares the folder; the others find it prepared
        workspace = Workspace(Path(recipe.out), overwrite=overwrite, resume=resume or not is_main)
        workspace.pin_recipe(recipe)
        checkpoint = workspace.last_checkpoint()
        last_step = step_of(checkpoint) if checkpoint else 0
        before = workspace.rewind_log(last_step)
        tokenizer = load_tokenizer(recipe.model, trust_remote_code=trust_remote_code)
        if recipe.data.chat_template is not None:
            tokenizer.chat_template = recipe.data.chat_template
        mixture = _training_data(recipe, tokenizer, workspace, progress)
    # The main process measures, alone where it can: the others have nothing held out, and so no
    # milestones. A forward pass of sharded weights needs all of them, who then remember alike.
    is_measuring = is_main or recipe.training.sharding == "full"
    held_out = _held_out(recipe, tokenizer) if is_measuring else []
    milestones = Milestones(
        workspace.milestones,
        held_out,
        precision,
        on_milestone if is_main else None,
        progress,
        recipe.measure.max_sparsity_drop if recipe.measure is not None else None,
        is_main,
    )
    milestones.restore(last_step)

    is_resumed = checkpoint is not None
    model, adapters = starting_model(recipe, is_resumed, milestones, where, trust_remote_code)
    # How the model runs is the run's business, not the checkpoint's: no cache while training.
    model.config.use_cache = False
    if recipe.training.gradient_checkpointing:
        recompute_activations(model)
    teaching = distiller(recipe, model, precision, where, trust_remote_code)
    trainer = _trainer(recipe, model, mixture, workspace, before, precision, where, teaching)
    if trainer.controller is not None and checkpoint is not None:
        trainer.controller.restore(checkpoint)
    every = recipe.measure.every if recipe.measure is not None else None
    trainer.add_callback(StageEnds(trainer, milestones, every))
    if progress:
        trainer.add_callback(Progress(tokens_per_step))
    _run_until_done_or_interrupted(trainer, checkpoint, workspace)
    model.config.use_cache = True
    if adapters is not None:
        adapters.merge_and_unload()

    record = run_record(recipe, model, trainer, milestones, tokens_per_step, precision, where)
    weights = whole_weights(model) if is_sharded(model) else None
    if trainer.is_world_process_zero():
        with told_when_unwritten(f"The trained model in {workspace.folder}"):
            notes = card_notes(record)
            save(
                model, tokenizer, workspace.folder, base=recipe.model, notes=notes, weights=weights
            )
            write_record(record, workspace.folder)
        workspace.finish()
    return record


def _training_data(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, workspace: Workspace, progress: bool
) -> Mixture:
    tokens_per_step = recipe.tokens_per_step(PartialState().num_processes)
    return build_mixture(
        recipe.data.components,
        tokenizer,
        recipe.data.context_length,
        recipe.regularization.schedule().num_steps * tokens_per_step // recipe.data.context_length,
        Path(recipe.data.token_store or workspace.tokens),
        recipe.training.seed,
        progress,
        answers_only=recipe.data.loss == "answers",
        is_shared=recipe.data.token_store is not None,
    )


def _held_out(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list:
    if recipe.measure is None:
        return []
    return read_windows(
        recipe.measure.data, tokenizer, recipe.data.context_length, recipe.measure.tokens
    )


def _trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    mixture: Mixture,
    workspace: Workspace,
    before: tuple[int, float],
    precision: str,
    where: torch.device,
    teaching: Distiller | None,
) -> ProSparseTrainer:
    plan, controller = recipe.regularization, recipe.regularization.controller()
    tokens_before, seconds_before = before
    trainer = ProSparseTrainer(
        model=model,
        args=training_arguments(
            recipe, workspace.checkpoints, where.type, precision, PartialState().num_processes
        ),
        train_dataset=mixture,
        data_collator=default_data_collator,
        schedule=plan.schedule(),
        kappa=kappa(plan.normalization, ffns(model)[0].d_ff, plan.reference_tokens),
        log_path=workspace.log,
        controller=controller,
        distiller=teaching,
        weights=plan.layer_weights,
        tokens_before=tokens_before,
        seconds_before=seconds_before,
        sharded=ShardedCheckpoints() if recipe.training.sharding == "full" else None,
    )
    trainer.remove_callback(PrinterCallback)  # the log has it all, and more
    if controller is not None:
        trainer.add_callback(Steering(trainer, controller))
    trainer.add_callback(StopOnDivergence(trainer, recipe.training.max_loss_rise))
    for callback in tracker_callbacks(recipe.training.report_to, workspace.folder):
        trainer.add_callback(callback)
    return trainer


def _run_until_done_or_interrupted(
    trainer: ProSparseTrainer, checkpoint: Path | None, workspace: Workspace
) -> None:
    stop = StopOnInterrupt()
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        stop.restore()
    if stop.interrupted and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(
            f"Stopped after step {trainer.state.global_step} of {trainer.state.max_steps}; the run "
            f"is in {workspace.folder}. The same command with --resume goes on from there."
        )
