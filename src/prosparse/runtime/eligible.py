# SPDX-License-Identifier: Apache-2.0
"""Which models the sparse FFN can take over, and the sentence for each that it cannot.

Everything is known before anything is changed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prosparse.errors import UserError
from prosparse.model.activation import FATReLU, ShiftedReLU, ThresholdedSiLU
from prosparse.model.ffn import FFN, ffns
from prosparse.model.gated import is_only_gated_ffn
from prosparse.model.input_thresholds import KEY as INPUT_THRESHOLDS
from prosparse.model.quantized import QuantizedLinear
from prosparse.runtime.sparse_ffn import is_swapped

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Subclasses of Linear that compute what Linear does; any other may do anything (quantize, adapt).
PLAIN_PROJECTIONS = ("Linear", "Conv1D", "FalconLinear")


def eligible_ffns(model: PreTrainedModel) -> list[FFN]:
    """Return the FFNs of a model, first layer first.

    Raises:
        UserError: One of them cannot be computed sparsely, or is already.
    """
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"accelerate takes a model as it was loaded; found a {type(model).__name__}: accelerate "
            "it first, then compile or wrap it."
        )
    if any(is_swapped(module) for module in model.modules()):
        raise UserError(
            "This model is accelerated already; call remove() of what accelerate returned before "
            "accelerating it anew."
        )
    if hasattr(model.config.get_text_config(), INPUT_THRESHOLDS):
        raise UserError(
            "This model cuts the inputs of its FFNs' projections (TEAL), which skips columns of "
            "weights; the sparse operators skip neurons, so accelerate does not take it."
        )
    found = ffns(model)
    for ffn in found:
        _refuse_dense_activation(ffn)
        for part in _parts(ffn):
            _refuse_other_forward(ffn, part)
        for name, projection in projections(ffn).items():
            _refuse_other_weights(f"{ffn.name}.{name}".lstrip("."), projection)
    _refuse_shared(model, found)
    for ffn in found:
        if ffn.is_gated:
            _refuse_other_module(ffn)
    return found


def projections(ffn: FFN) -> dict[str, nn.Module]:
    """Return the projections of an FFN by their names in it."""
    names = (ffn.family.gate, ffn.family.up, ffn.family.down)
    return {name: ffn.module.get_submodule(name) for name in names if name}


def _parts(ffn: FFN) -> list[nn.Module]:
    owner = [ffn.module] if ffn.is_gated else []
    return [*owner, *projections(ffn).values(), ffn.activation]


def _refuse_dense_activation(ffn: FFN) -> None:
    activation = ffn.activation
    if isinstance(activation, ThresholdedSiLU):
        raise UserError(
            f"The zeros of {ffn.name} come from the magnitudes of SiLU (CATS); the sparse operators know "
            "ReLU, dReLU, FATReLU and shifted ReLU only, so accelerate does not take this model."
        )
    if not isinstance(activation, nn.ReLU | FATReLU | ShiftedReLU):
        raise UserError(
            f"The activation function of {ffn.name} is {type(activation).__name__}, which gives no "
            "zeros to skip; make a ReLU model of it first: prosparse relufy, then train."
        )
    param = 0.0 if isinstance(activation, nn.ReLU) else activation.param
    if param is None or not (math.isfinite(param) and param >= 0):
        raise UserError(
            f"The number of {ffn.name}'s {type(activation).__name__} must be finite and >= 0; found "
            f"{param}."
        )


def _refuse_other_forward(ffn: FFN, part: nn.Module) -> None:
    if "forward" in vars(part):
        raise UserError(
            f"Something has replaced the forward of a {type(part).__name__} in {ffn.name} "
            "(offloading, an adapter): load the whole model onto one device, or each layer onto "
            "one, and merge adapters before accelerating it."
        )


def _refuse_other_weights(name: str, projection: nn.Module) -> None:
    if isinstance(projection, QuantizedLinear):
        return
    weight = dict(projection.named_parameters(recurse=False)).get("weight")
    plain = isinstance(projection, nn.Linear | Conv1D)
    plain = plain and type(projection).__name__ in PLAIN_PROJECTIONS
    if not plain or type(weight) is not nn.Parameter or type(weight.data) is not Tensor:
        raise UserError(
            f"{name} is a {type(projection).__name__} with a weight of its own kind (quantized, "
            "adapted or distributed); accelerate takes plain weights, a Linear's or a Conv1D's."
        )
    if weight.dtype not in DTYPES:
        raise UserError(
            f"{name} has {str(weight.dtype).removeprefix('torch.')} weights; accelerate takes "
            "float32, bfloat16 and float16."
        )
    if weight.device.type == "meta":
        raise UserError(f"{name} has no weights here (device 'meta'); load the model whole.")


def _refuse_shared(model: PreTrainedModel, found: list[FFN]) -> None:
    """A weight that something else uses too must not change its layout under it."""
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(parameter.data_ptr(), []).append(name)
    for ffn in found:
        for projection in projections(ffn).values():
            if isinstance(projection, QuantizedLinear):
                continue
            names = users[projection.get_parameter("weight").data_ptr()]
            if len(names) > 1:
                raise UserError(
                    f"{names[0]} and {names[1]} are one weight; accelerate lays weights out anew "
                    "and takes only models whose FFNs have their own."
                )
    if len({id(ffn.activation) for ffn in found}) < len(found):
        raise UserError(
            "Several layers of this model share one activation module; give each FFN its own before "
            "accelerating it."
        )


def _refuse_other_module(ffn: FFN) -> None:
    """A gated FFN module must return what `down` does, of act(gate(x)) * up(x): it is replaced."""
    if not is_only_gated_ffn(ffn):
        raise UserError(
            f"{ffn.name} ({type(ffn.module).__name__}) computes more than "
            "down(act(gate(x)) * up(x)); accelerate would leave that out and does not take this "
            "model."
        )
