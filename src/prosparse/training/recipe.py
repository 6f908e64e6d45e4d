# SPDX-License-Identifier: Apache-2.0
"""A recipe: one YAML file that says everything about a run.

Every section is a frozen dataclass; every key is checked, and a wrong one is an error that names
the file, the place and the nearest valid key. `--set key.path=value` changes one value.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from prosparse.data.mixture import Component
from prosparse.data.sources import Source, local_files
from prosparse.errors import UserError
from prosparse.model.activation import make_activation
from prosparse.model.checkpoint import check_model
from prosparse.records.codec import decode, encode
from prosparse.records.sparsity import Activation
from prosparse.training.regularizer import Normalization, kappa
from prosparse.training.schedule import Schedule, Stage


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

    def __post_init__(self) -> None:
        if self.context_length < 2:
            raise UserError(f"context_length must be at least 2; found {self.context_length}.")


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The optimizer and how its steps are computed."""

    learning_rate: float
    """Peak learning rate of AdamW."""
    final_learning_rate_ratio: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    warmup_steps: int = 0
    """Optimizer steps of linear learning-rate warm-up."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 clips nothing."""
    micro_batch_size: int = 1
    """Samples in one forward pass on one device."""
    gradient_accumulation: int = 1
    """Micro-batches in one optimizer step, on each device."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights and optimizer are float32. `auto`: bfloat16 where it is fast."""
    seed: int = 0
    log_every: int = 10
    """Optimizer steps between lines of log.jsonl."""
    save_every: int = 500
    """Optimizer steps between checkpoints to resume from; the end of a stage always saves one."""

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "gradient_accumulation", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; found {getattr(self, name)}.")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate must be > 0; found {self.learning_rate}.")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be >= 0; found {getattr(self, name)}.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be >= 0 and < 1; found {getattr(self, name)}.")
        if not 0 <= self.final_learning_rate_ratio <= 1:
            raise UserError(
                "final_learning_rate_ratio must be from 0 to 1; found "
                f"{self.final_learning_rate_ratio}."
            )


@dataclass(frozen=True, slots=True)
class RegularizationPlan:
    """Step 2: the stages of lambda, and what a lambda means."""

    stages: tuple[Stage, ...]
    normalization: Normalization = "mean"
    """See `prosparse.training.regularizer.kappa`."""
    reference_tokens: int | None = None
    """With `summed`: tokens of the micro-batch that the lambdas were tuned with."""

    def __post_init__(self) -> None:
        self.schedule()
        kappa(self.normalization, 1, self.reference_tokens)  # checks that the two go together

    def schedule(self) -> Schedule:
        """Return the checked schedule."""
        return Schedule(self.stages)


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """What is measured before training, at the end of each stage, and for thresholds."""

    data: dict[str, Source]
    """Held-out data sets by name."""
    tokens: int = 32768
    """Of each data set."""


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
    relufy: RelufyPlan = field(default_factory=RelufyPlan)
    measure: MeasurePlan | None = None
    threshold: ThresholdPlan | None = None
    """Used by `sparsify` only."""
    sample: SamplePlan | None = None
    """Used by `sparsify` only."""

    def __post_init__(self) -> None:
        if self.threshold is not None and self.measure is None:
            raise UserError("a 'threshold' section needs a 'measure' section with held-out data.")
        if self.measure is not None and self.measure.tokens < self.data.context_length:
            raise UserError(
                f"measure.tokens must be at least one window of {self.data.context_length} tokens; "
                f"found {self.measure.tokens}."
            )
        if self.threshold is not None and self.relufy.chosen().name == "shifted_relu":
            raise UserError("a 'threshold' section shifts ReLU; 'relufy' has shifted-relu instead.")

    @property
    def tokens_per_micro_batch(self) -> int:
        """Tokens of one forward pass on one device."""
        return self.training.micro_batch_size * self.data.context_length

    def check_inputs(self, *, trust_remote_code: bool = False) -> None:
        """Raise now for what would fail later, after minutes of work.

        Raises:
            UserError: The model is missing or of the wrong kind, or a local source is missing.
        """
        check_model(self.model, trust_remote_code=trust_remote_code)
        held_out = self.measure.data if self.measure is not None else {}
        for name, source in [*self.data.components.items(), *held_out.items()]:
            local_files(source, name)

    def to_yaml(self) -> str:
        """Return the recipe with every default filled in."""
        return yaml.safe_dump(encode(self), sort_keys=False)


def load_recipe(path: str | Path | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a YAML file.

    Args:
        path: The file; a `Recipe` is returned as it is.
        overrides: `key.path=value` each, value in YAML; list items by number
            (`regularization.stages.0.until=10`).

    Raises:
        UserError: The file is missing, is no YAML, or a key or value is wrong.
    """
    if isinstance(path, Recipe):
        if overrides:
            raise UserError(
                "overrides apply to a recipe file; change a Recipe with dataclasses.replace."
            )
        return path
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No recipe at {path}: the file does not exist.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    for override in overrides:
        data = _with_override(data, override)
    return decode(Recipe, data, str(path))


def _with_override(data: Any, override: str) -> Any:
    key_path, equals, value = override.partition("=")
    if not equals or not key_path:
        raise UserError(f"--set takes key.path=value; found '{override}'.")
    data = copy.deepcopy(data)
    *parents, last = key_path.split(".")
    place = data
    try:
        for key in parents:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[int(key)]
        place[last if isinstance(place, dict) else int(last)] = yaml.safe_load(value)
    except (TypeError, ValueError, IndexError, yaml.YAMLError):
        raise UserError(f"--set {override}: the recipe has no place '{key_path}'.") from None
    return data
