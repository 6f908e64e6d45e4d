# SPDX-License-Identifier: Apache-2.0
"""PowerInfer's file: GGUF with another magic, down projections turned, and predictors inside.

The graph that reads it skips a neuron where the predictor's logit is below `powerinfer.sparse_threshold`
and computes ReLU(gate) * up where it is not. Its predictors read the residual stream, which it turns
into float16 on the way, as it does with their hidden layer: each hidden unit is scaled to a row of norm 1
in `fc1` and the inverse in `fc2`, so that none can be larger than the residual. D = d_model, F = d_ff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prosparse.errors import UserError
from prosparse.exporting.llama import FFN_NAMES, add_sizes, check_llama, llama_tensors
from prosparse.exporting.tensors import NamedTensor, TensorType, new_writer, write_gguf
from prosparse.exporting.vocabulary import add_vocabulary
from prosparse.model.activation import FATReLU
from prosparse.model.ffn import ffns
from prosparse.model.gguf import ACTIVATION_KEY
from prosparse.predictors.files import check_fit
from prosparse.predictors.norms import as_reading

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prosparse.model.ffn import FFN
    from prosparse.predictors.predictor import Predictor, Predictors

MAGIC = b"PWRI"
THRESHOLD_KEY = "powerinfer.sparse_threshold"


def write_powerinfer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    predictors: Predictors,
    path: Path,
    *,
    name: str,
    type: TensorType,
) -> None:
    """Write a model and its predictors as a file that PowerInfer runs.

    Args:
        model: A Llama with ReLU.
        tokenizer: Its tokenizer.
        predictors: Of its FFNs; they become ones that read the residual stream.
        path: The file.
        name: The model's name.
        type: Of the FFN's matrices.

    Raises:
        UserError: PowerInfer cannot express the model or the predictors.
    """
    config = check_llama(model)
    check_expressible(model)
    predictors, threshold = exported_predictors(model, predictors)
    tensors = llama_tensors(model, type, keep_head=True)
    tensors = [_turned(tensor) if ".ffn_down." in tensor.name else tensor for tensor in tensors]
    writer = new_writer(path, "llama")
    add_sizes(writer, config, name, type)
    add_vocabulary(writer, tokenizer, config.vocab_size, whole=False)
    writer.add_string(ACTIVATION_KEY, "relu")
    writer.add_float32(THRESHOLD_KEY, threshold)
    wide: TensorType = "f32" if type == "f32" else "f16"
    for index, layer in enumerate(predictors.layers):
        for part, weight in (("fc1", layer.fc1), ("fc2", layer.fc2)):
            tensors.append(_given(f"blk.{index}.{part}.weight", weight, wide))
    write_gguf(writer, tensors)
    set_magic(path)


def set_magic(path: Path) -> None:
    """Make a GGUF file one of PowerInfer's."""
    with path.open("r+b") as file:
        file.write(MAGIC)


def check_expressible(model: PreTrainedModel) -> None:
    """Raise unless PowerInfer's graph computes the model's activation function.

    Raises:
        UserError: It is not ReLU.
    """
    for ffn in ffns(model):
        activation = ffn.activation
        if isinstance(activation, FATReLU) and activation.param:
            raise UserError(
                f"The activation of {ffn.name} is FATReLU with a threshold of {activation.param:g}, and "
                "PowerInfer computes plain ReLU, which would be another model without a word; pass "
                "--unshifted to export it with a threshold of 0."
            )
        if type(activation) is not torch.nn.ReLU and not isinstance(activation, FATReLU):
            raise UserError(
                f"The activation of {ffn.name} is {type(activation).__name__}, and PowerInfer's llama "
                "graph computes ReLU only."
            )


def exported_predictors(model: PreTrainedModel, predictors: Predictors) -> tuple[Predictors, float]:
    """Return the predictors as PowerInfer reads them, and the threshold of their logits.

    Raises:
        UserError: They are of another model, or differ in their cuts, of which the file has one.
    """
    found = ffns(model)
    check_fit(predictors, found)
    cuts = sorted({layer.cut for layer in predictors.layers})
    if len(cuts) > 1:
        raise UserError(
            f"PowerInfer has one threshold for all layers and these predictors have cuts from "
            f"{cuts[0]:g} to {cuts[-1]:g}; fit them with --zero-cuts."
        )
    moved = as_reading(predictors, "residual", model)
    type_ = type(moved)
    return type_([_bounded(layer) for layer in moved.layers], moved.reads), cuts[0]


def _bounded(layer: Predictor) -> Predictor:
    norms_R = layer.fc1.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return type(layer)(layer.fc1 / norms_R[:, None], layer.fc2 * norms_R, layer.cut)


def _turned(tensor: NamedTensor) -> NamedTensor:
    name = tensor.name.replace(".ffn_down.", ".ffn_down_t.")
    return NamedTensor(name, tensor.shape[::-1], tensor.type, lambda: tensor.make().T)


def _given(name: str, weight: torch.Tensor, type: TensorType) -> NamedTensor:
    return NamedTensor(name, tuple(weight.shape), type, lambda: weight)


def neuron_bytes(ffn: FFN, type: TensorType) -> int:
    """Return what the rows of one neuron take in the file."""
    per_32 = {"f32": 128, "f16": 64, "q4_0": 18}[type]
    return len(FFN_NAMES) * ffn.d_model * per_32 // 32
