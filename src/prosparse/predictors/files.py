# SPDX-License-Identifier: Apache-2.0
"""Predictors on disk: ours as safetensors, and the folders of DejaVu's trainers and of PowerInfer.

Ours is `predictors.safetensors` with `layers.N.fc1.weight` [R, D] and `layers.N.fc2.weight` [F, R]; its
metadata hold the cuts and what the predictors read. Theirs is `model_N.pt` for each layer, a pickled
state dict with `fc1.weight` and `fc2.weight`, and perhaps `config.json` with `sparse_threshold`; they
read the residual stream. Of those nothing but tensors is unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prosparse.errors import UserError
from prosparse.model.ffn_inputs import INPUT_KINDS
from prosparse.predictors.predictor import Predictor, Predictors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from prosparse.model.ffn import FFN

NAME = "predictors.safetensors"
IMPORTED_NAME = "model_{}.pt"
THRESHOLD_KEY = "sparse_threshold"


def write_predictors(predictors: Predictors, folder: Path) -> Path:
    """Write `folder/predictors.safetensors`; return its path."""
    tensors = {}
    for index, layer in enumerate(predictors.layers):
        tensors[f"layers.{index}.fc1.weight"] = layer.fc1.contiguous().cpu()
        tensors[f"layers.{index}.fc2.weight"] = layer.fc2.contiguous().cpu()
    about = {
        "reads": predictors.reads,
        "cuts": json.dumps([layer.cut for layer in predictors.layers]),
    }
    path = folder / NAME
    save_file(tensors, path, metadata=about)
    return path


def read_predictors(folder: str | Path) -> Predictors:
    """Return the predictors of a folder, ours or imported, in float32 on the CPU.

    Raises:
        UserError: There are none, or a file is broken.
    """
    folder = Path(folder)
    if (folder / NAME).is_file():
        return _read_own(folder / NAME)
    if (folder / IMPORTED_NAME.format(0)).is_file():
        return _read_imported(folder)
    raise UserError(
        f"No predictors in {folder}: it has neither {NAME} (prosparse predictor fit writes it) nor "
        f"{IMPORTED_NAME.format(0)}."
    )


def check_fit(predictors: Predictors, ffns: Sequence[FFN]) -> None:
    """Raise unless the predictors have the shapes of a model's FFNs.

    Raises:
        UserError: They are of another model.
    """
    if len(predictors.layers) != len(ffns):
        raise UserError(
            f"There are predictors for {len(predictors.layers)} layers and {len(ffns)} FFNs in the "
            "model; give the predictors of this model."
        )
    for ffn, layer in zip(ffns, predictors.layers, strict=True):
        wanted = (ffn.d_model, ffn.d_ff)
        found = (layer.fc1.shape[1], layer.fc2.shape[0])
        if found != wanted or layer.fc2.shape[1] != layer.rank:
            raise UserError(
                f"The predictor of layer {ffn.layer} is for an FFN of d_model x d_ff {found[0]} x "
                f"{found[1]}; that of the model is {wanted[0]} x {wanted[1]}."
            )


def _read_own(path: Path) -> Predictors:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            cuts, reads = json.loads(about["cuts"]), about["reads"]
            layers = [
                Predictor(
                    file.get_tensor(f"layers.{index}.fc1.weight").float(),
                    file.get_tensor(f"layers.{index}.fc2.weight").float(),
                    float(cut),
                )
                for index, cut in enumerate(cuts)
            ]
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} holds no predictors of ours ({error}); fit them again.") from None
    if reads not in INPUT_KINDS:
        raise UserError(
            f"{path} says its predictors read '{reads}', which prosparse does not know."
        )
    return Predictors(layers, reads)


def _read_imported(folder: Path) -> Predictors:
    config = folder / "config.json"
    about = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    cut = float(about.get(THRESHOLD_KEY, 0.0))
    layers = []
    while (path := folder / IMPORTED_NAME.format(len(layers))).is_file():
        weights = _unpickled(path)
        layers.append(Predictor(weights["fc1.weight"].float(), weights["fc2.weight"].float(), cut))
    return Predictors(layers, "residual")


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path} holds more than tensors, or is broken: {reason}") from None
    wanted = {"fc1.weight", "fc2.weight"}
    if not isinstance(weights, dict) or set(weights) != wanted:
        found = (
            ", ".join(map(str, weights)) if isinstance(weights, dict) else type(weights).__name__
        )
        raise UserError(
            f"{path} must hold fc1.weight and fc2.weight and nothing else (no biases); found {found}."
        )
    return weights
