# SPDX-License-Identifier: Apache-2.0
"""Self-distillation: the model learns from the dense one it was, as well as from the text.

Not in the paper. With the weight w the loss of a step is

    (1 - w) L_lm + w D + L_reg,

D being a mean over the same tokens as L_lm, all micro-batches and processes together. For `logits`, D is
T^2 KL(teacher || student) of the next-token distributions at temperature T (Hinton et al. 2015); for
`hidden`, the squared distance of the last hidden states over the squared norm of the teacher's.

The teacher is a model of its own, in eval mode and without gradients: neither its activations nor its
passes are ever part of the penalty or of a count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from prosparse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 1024
"""Tokens whose distributions are in float32 at a time: [T, V] never is as a whole."""
SHORTEST = 1.0
"""Least squared norm of a teacher's hidden state that a distance is divided by."""
IGNORED = -100
INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True, slots=True)
class DistillationPlan:
    """The `distillation` section of a recipe."""

    teacher: str | None = None
    """Folder, GGUF file or hub id; None is the recipe's own model, as it is before relufy."""
    weight: float = 0.5
    """Of the distance to the teacher; the text has the rest."""
    temperature: float = 1.0
    """Of both distributions; with `logits` only."""
    kind: Literal["logits", "hidden"] = "logits"
    """What of the teacher is learned: its next-token distributions or its last hidden states."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise UserError(f"weight must be above 0 and at most 1; found {self.weight}.")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"temperature must be > 0; found {self.temperature}.")
        if self.kind == "hidden" and self.temperature != 1.0:
            raise UserError("temperature applies to 'kind: logits' only.")


class Distiller:
    """Tells how far the student is from the teacher on a micro-batch.

    Args:
        plan: The recipe's section.
        teacher: Frozen here; it should be in the dtype that it is to run in.
        student: The model that is trained, before anything wraps or compiles it.
        is_compiled: Whether to compile the teacher.

    Raises:
        UserError: The two have different vocabularies, or hidden states of different sizes.
    """

    def __init__(
        self,
        plan: DistillationPlan,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        is_compiled: bool = False,
    ) -> None:
        mine, theirs = (_head(model).weight.shape for model in (student, teacher))
        axis, what = (0, "vocabulary") if plan.kind == "logits" else (1, "hidden size")
        if mine[axis] != theirs[axis]:
            raise UserError(
                f"The teacher's {what} is {theirs[axis]} and the model's {mine[axis]}: a teacher must "
                "have the model's own."
            )
        teacher.requires_grad_(False).eval()
        teacher.config.use_cache = False
        self.weight = plan.weight
        self._plan = plan
        self._heads = (_head(student), _head(teacher))
        self._hidden: dict[str, Tensor] = {}
        self._teacher = cast("nn.Module", torch.compile(teacher) if is_compiled else teacher)
        self._is_compiled = is_compiled

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Watch both models' last hidden states inside the block, where these are compared."""
        if self._plan.kind == "logits":
            yield
            return
        handles = [
            head.register_forward_pre_hook(self._keep(name))
            for name, head in zip(("student", "teacher"), self._heads, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def distance(self, inputs: dict[str, Any], student_logits: Tensor) -> Tensor:
        """Return the sum over learned tokens of the distance to the teacher, a float32 scalar.

        Args:
            inputs: The micro-batch, with `labels`; the student has just seen it.
            student_logits: [B, S, V], with their graph.
        """
        with torch.no_grad():
            seen = {name: inputs[name] for name in INPUTS if name in inputs}
            teacher_logits = self._teacher(**seen).logits
        learned_T = learned(inputs["labels"]).reshape(-1)
        if self._plan.kind == "hidden":
            return _hidden_distance(
                self._hidden.pop("student"), self._hidden.pop("teacher"), learned_T
            )
        return divergence(
            student_logits.flatten(0, 1),
            teacher_logits.flatten(0, 1),
            learned_T,
            self._plan.temperature,
            self._is_compiled,
        )

    def _keep(self, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._hidden[name] = args[0]

        return hook


def learned(labels_BS: Tensor) -> Tensor:
    """Return where the next token is learned, bool [B, S]."""
    return functional.pad(labels_BS[:, 1:] != IGNORED, (0, 1), value=False)


def count_learned(batches: Sequence[dict[str, Tensor]]) -> int:
    """Return the tokens that micro-batches learn."""
    return sum(int(learned(batch["labels"]).sum()) for batch in batches)


def divergence(
    student_TV: Tensor,
    teacher_TV: Tensor,
    learned_T: Tensor,
    temperature: float,
    is_compiled: bool = False,
) -> Tensor:
    """Return T^2 times the sum over learned tokens of KL(teacher || student), at temperature T.

    Neither pass holds more than `CHUNK` tokens' distributions; what stays between them are the logits
    as they came.

    Args:
        student_TV: Logits; gradients flow into these alone.
        teacher_TV: Logits of the same shape, of any dtype.
        learned_T: bool.
        temperature: > 0.
        is_compiled: Whether to compile what is done to a chunk, which is then one pass over its logits
            instead of ten.
    """
    return cast(
        "Tensor", _Divergence.apply(student_TV, teacher_TV, learned_T, temperature, is_compiled)
    )


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_TV: Tensor,
        teacher_TV: Tensor,
        learned_T: Tensor,
        temperature: float,
        is_compiled: bool,
    ) -> Tensor:
        ctx.save_for_backward(student_TV, teacher_TV, learned_T)
        ctx.temperature, ctx.is_compiled = temperature, is_compiled
        distance = _compiled(_chunk_distance) if is_compiled else _chunk_distance
        total = torch.zeros((), dtype=torch.float32, device=student_TV.device)
        for student, teacher, is_learned in _chunks(student_TV, teacher_TV, learned_T):
            total += distance(student, teacher, is_learned, temperature)
        return temperature**2 * total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        student_TV, teacher_TV, learned_T = ctx.saved_tensors
        gradient = _compiled(_chunk_gradient) if ctx.is_compiled else _chunk_gradient
        gradient_TV = torch.empty_like(student_TV)
        scale_T = learned_T * (ctx.temperature * gradients[0])
        parts = _chunks(student_TV, teacher_TV, scale_T)
        for out, (student, teacher, scale) in zip(gradient_TV.split(CHUNK), parts, strict=True):
            out.copy_(gradient(student, teacher, scale, ctx.temperature))
        return gradient_TV, None, None, None, None


def _chunk_distance(
    student: Tensor, teacher: Tensor, is_learned: Tensor, temperature: float
) -> Tensor:
    log_q, log_p = _log_shares(student, temperature), _log_shares(teacher, temperature)
    return ((log_p.exp() * (log_p - log_q)).sum(-1) * is_learned).sum()


def _chunk_gradient(student: Tensor, teacher: Tensor, scale: Tensor, temperature: float) -> Tensor:
    q, p = (_log_shares(logits, temperature).exp() for logits in (student, teacher))
    return ((q - p) * scale[:, None]).to(student.dtype)


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True)


def _log_shares(logits: Tensor, temperature: float) -> Tensor:
    return functional.log_softmax(logits.float() / temperature, dim=-1)


def _hidden_distance(student: Tensor, teacher: Tensor, learned_T: Tensor) -> Tensor:
    student_TD, teacher_TD = student.flatten(0, -2).float(), teacher.flatten(0, -2).float()
    # A padding token's embedding can be all zeros, and with it the state of a text that begins so.
    length_T = teacher_TD.square().sum(-1).clamp_min(SHORTEST)
    apart_T = (student_TD - teacher_TD).square().sum(-1) / length_T
    return (apart_T * learned_T).sum()


def _head(model: PreTrainedModel) -> nn.Linear:
    return cast("nn.Linear", model.get_output_embeddings())
