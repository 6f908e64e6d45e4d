# SPDX-License-Identifier: Apache-2.0
"""Modeling code that goes with a checkpoint, so that it loads without prosparse.

`modeling_prosparse.py` is written beside the weights and named by `auto_map` in config.json:
transformers runs it where `trust_remote_code=True` is granted. It needs nothing but transformers,
and nothing in it is global. Where the permission is not given, and prosparse not imported, stock
transformers fails on `hidden_act: fatrelu`, which it does not know.
"""

from __future__ import annotations

import json
from string import Template
from typing import TYPE_CHECKING

from prosparse.model.activation import SPARSE_ACTIVATIONS
from prosparse.model.ffn import ffns
from prosparse.model.input_thresholds import KEY as INPUT_THRESHOLDS
from prosparse.model.relufy import OWN_KEY
from prosparse.records.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

MODULE = "modeling_prosparse"
AUTO_CLASS = "AutoModelForCausalLM"
AUTO_MAP = "auto_map"
UNKNOWN_TO_TRANSFORMERS = tuple(SPARSE_ACTIVATIONS.keys() - {"relu"})

CODE = Template('''\
# SPDX-License-Identifier: Apache-2.0
"""$stock with the FFN activation that config.json names; written by prosparse.

It stands on transformers alone and loads with

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

import torch
import transformers
from torch import nn


class FATReLU(nn.Module):
    """x where x >= t, else 0. t is compared in the dtype of x; ties are kept."""

    def __init__(self, threshold):
        super().__init__()
        dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
        # On the CPU, for transformers builds models on the meta device.
        self.threshold = {d: torch.tensor(threshold, dtype=d, device="cpu").item() for d in dtypes}

    def forward(self, x):
        return x.masked_fill(x < self.threshold[x.dtype], 0)


class ShiftedReLU(nn.Module):
    """max(x - b, 0)."""

    def __init__(self, bias):
        super().__init__()
        self.bias = bias

    def forward(self, x):
        return torch.relu(x - self.bias)


class ThresholdedSiLU(FATReLU):
    """silu(x) where |silu(x)| > t, else 0."""

    def forward(self, x):
        y = nn.functional.silu(x)
        return y.masked_fill(y.abs() <= self.threshold[y.dtype], 0)


SPARSE = ("relu", "drelu", "fatrelu", "shifted_relu", "thresholded_silu")


def activation(name, param):
    numbered = {
        "fatrelu": FATReLU,
        "shifted_relu": ShiftedReLU,
        "thresholded_silu": ThresholdedSiLU,
    }
    return numbered[name](param) if name in numbered else nn.ReLU()


class CutsInput:
    """Before a projection: entries of its input with |x| <= t are zero (TEAL)."""

    def __init__(self, threshold):
        self.cut = FATReLU(threshold).threshold

    def __call__(self, projection, args):
        return (args[0].masked_fill(args[0].abs() <= self.cut[args[0].dtype], 0), *args[1:])


class $stock(transformers.$stock):
    """The stock class with the FFN activation `$key` of config.json, and `hidden_act_param`.

    `hidden_act_param` is one number, or a list of one for each layer. `ffn_input_thresholds`, where it
    is there, has such a list for each of gate, up and down.
    """

    @classmethod
    def is_custom_code(cls):
        # The weights have the names that the stock class gives them in a checkpoint. transformers looks
        # them up by the name of the class, and only for code that it takes for its own.
        return False

    def __init__(self, config, *args, **kwargs):
        text = config.get_text_config()
        act, param = text.$key, getattr(text, "hidden_act_param", None)
        if act in SPARSE:
            text.$key = "relu"  # the stock class does not know the other names
        try:
            super().__init__(config, *args, **kwargs)
        finally:
            text.$key = act
        layers = self.get_submodule("$layers")
        params = param if isinstance(param, list) else [param] * len(layers)
        cuts = getattr(text, "ffn_input_thresholds", {})
        for index, (layer, number) in enumerate(zip(layers, params, strict=True)):
            ffn = layer.get_submodule("$ffn")
            if act in SPARSE:
                setattr(ffn, "$activation", activation(act, number))
            if act == "drelu":  # ReLU on gate and up
                getattr(ffn, "$up").register_forward_hook(lambda up, x, output: output.relu())
            for name, projection in (("gate", "$gate"), ("up", "$up"), ("down", "$down")):
                # Where prosparse is imported it has done this already.
                if name in cuts and not getattr(ffn, projection)._forward_pre_hooks:
                    cut = CutsInput(cuts[name][index])
                    getattr(ffn, projection).register_forward_pre_hook(cut)
''')


def write_standalone(model: PreTrainedModel, folder: Path) -> None:
    """Write the modeling code beside a checkpoint that stock transformers cannot load as it is.

    In config.json `architectures` stays the stock class, and `auto_map` names the code only where
    there is any. A model that came with code of somebody else's is left alone.

    Args:
        model: What was written to `folder`.
        folder: A checkpoint.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    auto_map = config.pop(AUTO_MAP, {})
    stock = _stock_class(model)
    if stock is None or any(f"{MODULE}." not in value for value in auto_map.values()):
        return
    config["architectures"] = [stock]
    code = folder / f"{MODULE}.py"
    if needs_code(model):
        config[AUTO_MAP] = {AUTO_CLASS: f"{MODULE}.{stock}"}
        write_whole(code, modeling_code(model, stock))
    else:
        code.unlink(missing_ok=True)  # transformers copies the code that a model came with
    write_whole(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def modeling_code(model: PreTrainedModel, stock: str) -> str:
    """Return the text of `modeling_prosparse.py` for a model of the stock class of this name."""
    family = ffns(model)[0].family
    return CODE.substitute(
        stock=stock,
        key=family.config_key or OWN_KEY,
        layers=family.layers,
        ffn=family.ffn,
        activation=family.activation,
        gate=family.gate,
        up=family.up,
        down=family.down,
    )


def needs_code(model: PreTrainedModel) -> bool:
    """Return whether stock transformers cannot build this model's FFNs from its config."""
    config, key = model.config.get_text_config(), ffns(model)[0].family.config_key
    if hasattr(config, INPUT_THRESHOLDS):
        return True
    names = UNKNOWN_TO_TRANSFORMERS if key else (*UNKNOWN_TO_TRANSFORMERS, "relu")
    return getattr(config, key or OWN_KEY, None) in names


def is_standalone(model: PreTrainedModel) -> bool:
    """Return whether a model was built by the code that we write beside checkpoints."""
    return any(cls.__module__.endswith(MODULE) for cls in type(model).__mro__)


def forget_code(model: PreTrainedModel) -> None:
    """Take our code's name off the config of a model that the stock class was built from.

    transformers' own `save_pretrained` and `push_to_hub` would write the name, but not the file.
    """
    auto_map = getattr(model.config, AUTO_MAP, None) or {}
    ours = [value for value in auto_map.values() if f"{MODULE}." in value]
    if ours and len(ours) == len(auto_map) and not is_standalone(model):
        delattr(model.config, AUTO_MAP)


def _stock_class(model: PreTrainedModel) -> str | None:
    """Return the class of transformers that a model is of, or None where others wrote it."""
    # FSDP makes a class of its own, too.
    nearest = next(
        cls
        for cls in type(model).__mro__
        if not cls.__module__.endswith(MODULE) and not cls.__module__.startswith("torch.")
    )
    return nearest.__name__ if nearest.__module__.startswith("transformers.models.") else None
