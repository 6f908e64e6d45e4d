# SPDX-License-Identifier: Apache-2.0
"""transformers.Trainer with the sparsity penalty added to its loss, and nothing else changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prosparse.data.conversations import TOKEN_MASK
from prosparse.errors import UserError
from prosparse.model.ffn import FFN, ffns
from prosparse.training.checkpointing import CheckpointingTrainer
from prosparse.training.controller import SparsityController
from prosparse.training.distillation import Distiller, count_learned
from prosparse.training.regularizer import Profile, SparsityPenalty, layer_weights
from prosparse.training.schedule import Schedule
from prosparse.training.sharding import compiled_by_layer, keep_exact
from prosparse.training.totals import NUM_LOSSES, Clock, Totals

TOLD = ("sparsity", "factor", "coefficient", "regularization", "l1", "tokens", "tokens_per_second")
"""What of a log line goes to the progress bar and to trackers, beside the Trainer's own."""


class ProSparseTrainer(CheckpointingTrainer):
    """Minimizes L_lm + L_reg(lambda), lambda being a function of the step (Section 3.2).

    Args:
        schedule: lambda at every step.
        controller: Tells lambda instead, where the recipe has a target sparsity.
        distiller: Tells the distance to a teacher, where the recipe has one.
        kappa: c = lambda * kappa, see `prosparse.training.regularizer`.
        log_path: JSONL file that gets one line for each logged step.
        weights: Of the layers in the penalty, see `layer_weights`.
        tokens_before: Tokens already seen by the parts of the run before a resume.
        seconds_before: Time already spent by them.
        **kwargs: As for `CheckpointingTrainer`.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        kappa: float,
        log_path: Path,
        controller: SparsityController | None = None,
        distiller: Distiller | None = None,
        weights: Profile | Sequence[float] | None = None,
        tokens_before: int = 0,
        seconds_before: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(clock=Clock(seconds_before), **kwargs)
        self.schedule = schedule
        self.controller = controller
        self.distiller = distiller
        self.kappa = kappa
        self.log_path = log_path
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise UserError(
                "'sharding: full' needs one GPU for each process: accelerate shards nothing on a "
                f"{self.args.device.type}; set training.sharding=none."
            )
        if self.is_fsdp_enabled:
            keep_exact(self.accelerator)
        self.ffns = ffns(cast("PreTrainedModel", self.model))
        self.penalty = SparsityPenalty(
            self.ffns, self.args.device, layer_weights(weights, len(self.ffns))
        )
        self._tokens_in_step = 0
        self._learned_in_step = 0
        self._tokens_logged = tokens_before
        self._totals = Totals(len(self.ffns), self.args.device, seconds_before)

    @property
    def tokens_seen(self) -> int:
        """Training tokens of the whole run so far, without padding."""
        return self._tokens_logged + self._totals.num_tokens_with_this_step

    def factor(self, step: int) -> float:
        """Return lambda at an optimizer step that was taken or is next, counted from 1."""
        return (self.controller or self.schedule).factor(step)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with the penalty watching the model from before it is compiled to the end."""
        refuse_liger_ffn(self.args)
        watched = nullcontext() if self.distiller is None else self.distiller.attached()
        compiled = compiled_by_layer(len(self.ffns))
        with self.penalty.attached(), watched, compiled, self.all_written():
            return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of one optimizer step, and count their real tokens."""
        refuse_replaced_forward(self.ffns)
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        self._tokens_in_step = self._over_processes(sum(count_tokens(batch) for batch in samples))
        if self.distiller is not None:
            self._learned_in_step = self._over_processes(count_learned(samples))
        self._totals.begin_step(self._tokens_in_step)
        return samples, num_items

    def _over_processes(self, count: int) -> int:
        if self.accelerator.num_processes == 1:  # alone, a GPU need not be waited for
            return count
        tokens = torch.tensor(count, device=self.args.device)
        return int(self.accelerator.reduce(tokens, "sum").item())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the language-modeling loss plus the penalty of one micro-batch.

        With a teacher a part of the former is the distance to it. All are this micro-batch's share of a mean over all tokens of the optimizer step. The
        Trainer sums micro-batches and averages processes, so the share is multiplied by the number
        of processes; where a model's own loss is a mean over the micro-batch instead, the Trainer
        divides by the number of micro-batches afterwards, and the penalty makes up for that.
        """
        with self.penalty.collect(mask_of(inputs)):
            inputs = {name: part for name, part in inputs.items() if name != TOKEN_MASK}
            lm_loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        seen = self.penalty.take()
        is_share_of_step = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        parts = 1 if is_share_of_step else self.current_gradient_accumulation_steps
        num_processes = self.accelerator.num_processes

        l1 = self.penalty.total(seen) / self._tokens_in_step
        factor = self.factor(self.state.global_step + 1)
        distance, loss = None, lm_loss
        if self.distiller is not None:  # after `collect`: the teacher's passes count nowhere
            distance = self.distiller.distance(inputs, cast("Any", outputs).logits)
            distance = distance / self._learned_in_step
            weight = self.distiller.weight
            loss = (1 - weight) * lm_loss + num_processes * parts * weight * distance
            distance = distance.detach()
        self._totals.add(
            lm_loss.detach() / (num_processes if is_share_of_step else num_processes * parts),
            l1.detach(),
            factor * self.kappa * l1.detach(),
            seen,
            distance,
        )
        if factor > 0:
            loss = loss + num_processes * parts * factor * self.kappa * l1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the Trainer does, and append the full line of this step to the run's own log."""
        if "loss" in logs and "learning_rate" in logs:
            logs = {**logs, **self._write_log_line(logs)}
        super().log(logs, start_time)

    def _write_log_line(self, logs: dict[str, float]) -> dict[str, float]:
        self._totals.close_step()
        step, tokens = self.state.global_step, self._totals.num_tokens
        totals = self.accelerator.reduce(self._totals.values, "sum").tolist()
        means = [total / self._totals.num_steps for total in totals[:NUM_LOSSES]]
        lm_loss, l1, regularization, distance = means
        self._tokens_logged += tokens
        layer_sparsity = [
            1 - active / (tokens * ffn.d_ff)
            for active, ffn in zip(totals[NUM_LOSSES:], self.ffns, strict=True)
        ]
        seconds = self.clock.seconds()
        line: dict[str, Any] = {
            "step": step,
            "tokens": self._tokens_logged,
            "loss": lm_loss,
            "regularization": regularization,
            "l1": l1,
            "factor": self.factor(step),
            "coefficient": self.factor(step) * self.kappa,
            "sparsity": sum(layer_sparsity) / len(layer_sparsity),
            "layer_sparsity": layer_sparsity,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens_per_second": tokens / max(seconds - self._totals.since_seconds, 1e-9),
            "seconds": seconds,
        }
        if self.controller is not None:
            line["target_sparsity"] = self.controller.target
            line["estimated_sparsity"] = self.controller.estimate
        if self.penalty.weights is not None:
            line["layer_coefficient"] = [line["coefficient"] * w for w in self.penalty.weights]
        if self.distiller is not None:
            line["distillation"] = distance
        self._totals.reset(seconds)
        if self.is_world_process_zero():
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        told = {key: line[key] for key in TOLD}
        return {"lm_loss": lm_loss, **told}

    def step_losses(self) -> Tensor:
        """Return [language-modeling loss, penalty] of the step under way over all processes.

        float64, still on the device.
        """
        totals = self.accelerator.reduce(self._totals.step_values[[0, 2]], "sum")
        return cast("Tensor", totals)

    def step_sparsity(self) -> float:
        """Return the mean over layers of the sparsity of the last step's batch, of all processes."""
        active_L = self.accelerator.reduce(self._totals.step_values[NUM_LOSSES:], "sum").tolist()
        sizes = [self._tokens_in_step * ffn.d_ff for ffn in self.ffns]
        shares = [1 - active / size for active, size in zip(active_L, sizes, strict=True)]
        return sum(shares) / len(shares)

    def save_without_this_step(self) -> None:
        """Log and save what was done before the step under way, which the optimizer has not taken."""
        self._totals.drop_step()
        if self._totals.num_steps:  # so that a log line never spans a checkpoint
            self._write_log_line({"learning_rate": self._get_learning_rate()})
        self.save_this_step()

    def _save_own_state(self, checkpoint: Path) -> None:
        if self.controller is not None:
            self.controller.save(checkpoint)


def mask_of(batch: dict[str, Tensor]) -> Tensor | None:
    """Return where a micro-batch holds real tokens, [B, S], or None where all are.

    Packed conversations say so apart, because a model that is given an attention mask no longer
    keeps them from attending to one another.
    """
    return batch.get(TOKEN_MASK, batch.get("attention_mask"))


def count_tokens(batch: dict[str, Tensor]) -> int:
    """Return the real tokens of a micro-batch: those that are not padding."""
    mask = mask_of(batch)
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


def refuse_liger_ffn(args: Any) -> None:
    """Raise when liger-kernel would replace the FFN.

    Its SwiGLU and GeGLU patches rebind `mlp.forward` to a SiLU or GELU one without looking at the
    config: a ReLU model would silently train as a SiLU model.

    Raises:
        UserError: `use_liger_kernel` is on and its FFN patches are not turned off.
    """
    if not args.use_liger_kernel:
        return
    config = args.liger_kernel_config or {}
    if config.get("swiglu", True) or config.get("geglu", True):
        raise UserError(
            "liger-kernel replaces the FFN by a SiLU or GELU one; set "
            'liger_kernel_config={"swiglu": False, "geglu": False} to use its other kernels.'
        )


def refuse_replaced_forward(found: list[FFN]) -> None:
    """Raise when something has rebound an FFN's forward, which may ignore its activation.

    Raises:
        UserError: An FFN module carries a `forward` of its own.
    """
    for ffn in found:
        if "forward" in vars(ffn.module):
            raise UserError(
                f"The forward of {ffn.name} was replaced after loading; a patch of the FFN can "
                "run another activation than the model's, so it must be removed before training."
            )
