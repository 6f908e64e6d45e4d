# SPDX-License-Identifier: Apache-2.0
"""A recipe: one YAML file that says everything about a run.

Every section is a frozen dataclass; every key is checked, and a wrong one is an error that names
the file, the place and the nearest valid key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import yaml

from prosparse.data.mixture import Component
from prosparse.data.sources import Source, local_files
from prosparse.errors import UserError
from prosparse.model.activation import make_activation
from prosparse.model.checkpoint import check_model
from prosparse.model.shapes import SHAPES
from prosparse.records.codec import encode
from prosparse.records.sparsity import Activation
from prosparse.training.adapters import LoraPlan
from prosparse.training.controller import SparsityController
from prosparse.training.distillation import DistillationPlan
from prosparse.training.regularizer import Normalization, Profile, kappa, layer_weights
from prosparse.training.schedule import Schedule, Stage
from prosparse.training.training_plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class RelufyPlan:
    """Step 1: what replaces the activation function."""

    activation: str = "relu"
    """`relu`, `shifted-relu` or `fatrelu`."""
    bias: float | None = None
    """b of shifted ReLU."""
    threshold: float | None = None
    """t of FATReLU."""

    def __post_init__(self) -> None:
        self.chosen()

    def chosen(self) -> Activation:
        """Return the activation described."""
        return make_activation(self.activation, bias=self.bias, threshold=self.threshold)


@dataclass(frozen=True, slots=True)
class DataPlan:
    """Training text."""

    components: dict[str, Component]
    """Named sources with optional weights."""
    context_length: int = 4096
    """Tokens in one training sample (Appendix L: 4,096)."""
    chat_template: str | None = None
    """Jinja template that makes texts of conversations, for a model that has none; it is saved with
    the checkpoint. None keeps the model's own."""
    loss: Literal["all", "answers"] = "all"
    """`all`: every token of running text is learned. `answers`: those of answers alone, from whole
    documents that do not see one another (fine-tuning)."""
    token_store: str | None = None
    """Folder that keeps the tokenized text for other runs on the same data. None: the run's own, which
    is removed at its end."""

    def __post_init__(self) -> None:
        mute = [name for name, c in self.components.items() if not c.tells_answers]
        if self.loss == "answers" and mute:
            raise UserError(
                f"'loss: answers' needs to know the answers, which components.{mute[0]} does not "
                "tell: give it messages_field, prompt with answer, or prompt_chars_field."
            )
        if self.context_length < 2:
            raise UserError(f"context_length must be at least 2; found {self.context_length}.")


@dataclass(frozen=True, slots=True)
class RegularizationPlan:
    """Step 2: the stages of lambda, and what a lambda means."""

    stages: tuple[Stage, ...]
    normalization: Normalization = "mean"
    """See `prosparse.training.regularizer.kappa`."""
    reference_tokens: int | None = None
    """With `summed`: tokens of the micro-batch that the lambdas were tuned with."""
    layer_weights: Profile | tuple[float, ...] | None = None
    """Of the layers in the penalty; see `prosparse.training.regularizer.layer_weights`."""
    target_sparsity: float | None = None
    """Held-out sparsity that the last stage steers to, with a lambda of at most its factor."""

    def __post_init__(self) -> None:
        self.schedule()
        if self.target_sparsity is not None:
            self._check_target(self.target_sparsity)
        kappa(self.normalization, 1, self.reference_tokens)  # checks that the two go together
        if isinstance(self.layer_weights, tuple):
            layer_weights(self.layer_weights, len(self.layer_weights))

    def schedule(self) -> Schedule:
        """Return the checked schedule."""
        return Schedule(self.stages)

    def controller(self) -> SparsityController | None:
        """Return what steers lambda in the last stage; None without a target."""
        if self.target_sparsity is None:
            return None
        return SparsityController(self.schedule(), self.target_sparsity)

    def _check_target(self, target: float) -> None:
        if not 0 < target < 1:
            raise UserError(f"target_sparsity must be between 0 and 1; found {target:g}.")
        factors = [stage.factor for stage in self.stages]
        rises = len(factors) > 2 and 0 == factors[0] < factors[-2] < factors[-1]
        if not rises or self.stages[-1].fixed:
            raise UserError(
                "target_sparsity needs three stages or more: first factor 0, then a warm-up with a "
                "small factor, last the one to steer, its factor the largest lambda allowed; found "
                f"factors {factors}{' and a fixed last stage' if self.stages[-1].fixed else ''}."
            )


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """What is measured before training, at the end of each stage, and for thresholds."""

    data: dict[str, Source]
    """Held-out data sets by name."""
    tokens: int = 32768
    """Of each data set."""
    every: int | None = None
    """Optimizer steps between measurements beside the ends of stages; None: only these."""
    max_sparsity_drop: float = 0.01
    """By how much sparsity may fall below that at the beginning before a warning is given; 0.01 is
    one point."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise UserError(f"every must be at least 1; found {self.every}.")
        if not 0 <= self.max_sparsity_drop <= 1:
            raise UserError(
                f"max_sparsity_drop must be from 0 to 1; found {self.max_sparsity_drop}."
            )


@dataclass(frozen=True, slots=True)
class ThresholdPlan:
    """Step 3: candidates for the FATReLU threshold and the quality they may cost."""

    candidates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.03)
    """Appendix O's."""
    max_perplexity_increase: float = 0.01
    """0.01 is one percent."""

    def __post_init__(self) -> None:
        # The search checks these too, but only after the training that comes before it.
        if not (self.candidates and all(0 < value < math.inf for value in self.candidates)):
            raise UserError(f"candidates must be numbers > 0; found {list(self.candidates)}.")
        if not self.max_perplexity_increase >= 0:
            raise UserError(
                f"max_perplexity_increase must be >= 0; found {self.max_perplexity_increase}."
            )


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """A text for the finished model to write."""

    prompt: str
    tokens: int = 64
    """New tokens."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("prompt is empty; give at least one word to go on from.")
        if self.tokens < 1:
            raise UserError(f"tokens must be at least 1; found {self.tokens}.")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about a run. `train` does steps 1 and 2; `sparsify` the whole line."""

    model: str
    """Folder, GGUF file or hub id to start from."""
    out: str
    """Folder to write. Relative paths are relative to where the command runs."""
    data: DataPlan
    training: TrainingPlan
    regularization: RegularizationPlan
    architecture: str | None = None
    """The model's shape by name, such as `llama2-7b`: where `model` is not on this machine, a dry
    run reads this instead."""
    relufy: RelufyPlan | None = field(default_factory=RelufyPlan)
    """None keeps the model's activation: to train a dense model on, as a control."""
    distillation: DistillationPlan | None = None
    """Learn from a dense teacher too."""
    lora: LoraPlan | None = None
    """Train low-rank adapters instead of the weights, and add them in at the end."""
    measure: MeasurePlan | None = None
    threshold: ThresholdPlan | None = None
    """Used by `sparsify` only."""
    sample: SamplePlan | None = None
    """Used by `sparsify` only."""

    def __post_init__(self) -> None:
        if self.architecture is not None and self.architecture not in SHAPES:
            raise UserError(
                f"architecture must be one of {', '.join(SHAPES)}; found '{self.architecture}'."
            )
        if self.lora is not None and self.training.sharding == "full":
            raise UserError(
                "'sharding: full' and a 'lora' section do not go together yet: set "
                "training.sharding=none, which shares adapters' training out by DDP."
            )
        if self.distillation is not None and self.training.sharding == "full":
            raise UserError(
                "'sharding: full' and a 'distillation' section do not go together yet: set "
                "training.sharding=none."
            )
        is_steered = self.regularization.target_sparsity is not None
        if is_steered and (self.measure is None or self.measure.every is None):
            raise UserError(
                "target_sparsity is of held-out text: the recipe needs a 'measure' section with "
                "'every', about a tenth of the last stage's steps."
            )
        if self.threshold is not None and self.measure is None:
            raise UserError("a 'threshold' section needs a 'measure' section with held-out data.")
        if self.measure is not None and self.measure.tokens < self.data.context_length:
            raise UserError(
                f"measure.tokens must be at least one window of {self.data.context_length} tokens; "
                f"found {self.measure.tokens}."
            )
        if self.threshold is not None:
            found = self.relufy.chosen().name if self.relufy is not None else "no activation"
            if found not in ("relu", "fatrelu"):
                raise UserError(f"a 'threshold' section shifts ReLU; 'relufy' has {found} instead.")

    @property
    def tokens_per_micro_batch(self) -> int:
        """Tokens of one forward pass on one device."""
        return self.training.micro_batch_size * self.data.context_length

    def tokens_per_step(self, num_devices: int) -> int:
        """Return the tokens of one optimizer step of all devices together.

        With `loss: answers` some are padding: it is the most there can be.
        """
        accumulation = self.training.accumulation(num_devices)
        return self.tokens_per_micro_batch * accumulation * num_devices

    def check_inputs(self, *, trust_remote_code: bool = False) -> None:
        """Raise now for what would fail later, after minutes of work.

        Raises:
            UserError: The model is missing or of the wrong kind, or a local source is missing.
        """
        check_model(self.model, trust_remote_code=trust_remote_code)
        if self.distillation is not None and self.distillation.teacher is not None:
            check_model(self.distillation.teacher, trust_remote_code=trust_remote_code)
        held_out = self.measure.data if self.measure is not None else {}
        for name, source in [*self.data.components.items(), *held_out.items()]:
            local_files(source, name)

    def to_yaml(self) -> str:
        """Return the recipe with every default filled in."""
        return yaml.safe_dump(encode(self), sort_keys=False)
