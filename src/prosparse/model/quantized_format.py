# SPDX-License-Identifier: Apache-2.0
"""Quantized checkpoints in transformers' own terms: a `quantization_config` and what loads it.

`import prosparse` makes `AutoModelForCausalLM.from_pretrained` know them: the layers that the config
names are exchanged while the model still has no weights, and safetensors fill in the packed ones.
The format is described in docs/quantize.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from prosparse.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

METHOD = "prosparse"
FORMAT_VERSION = 1


class ProSparseQuantizationConfig(QuantizationConfigMixin):
    """What `config.json` says of a quantized checkpoint.

    Args:
        bits: 8 or 4 for each quantized layer, by its dotted name.
        by_input: Of these, the layers whose rows are their inputs: the down projections of FFNs.
        group_size: Values of a row that share a scale.
        format_version: Of the tensors' layout.
        quant_method: Always `prosparse`.

    Raises:
        UserError: The format is of a later version, or something else wrote this.
    """

    def __init__(
        self,
        bits: Mapping[str, int] | None = None,
        by_input: list[str] | None = None,
        group_size: int = 64,
        format_version: int = FORMAT_VERSION,
        quant_method: str = METHOD,
        **others: Any,
    ) -> None:
        if format_version != FORMAT_VERSION or others:
            raise UserError(
                f"This checkpoint is quantized in version {format_version} of prosparse's format"
                f"{' with ' + ', '.join(others) if others else ''}; this prosparse reads version "
                f"{FORMAT_VERSION}: install a newer one."
            )
        self.quant_method = cast("Any", quant_method)
        self.format_version = format_version
        self.group_size = group_size
        self.bits = dict(bits or {})
        self.by_input = list(by_input or [])


class ProSparseQuantizer(HfQuantizer):
    """Prepares a model without weights for the packed ones of a checkpoint."""

    requires_calibration = True  # `prosparse.quantize` decides on text; loading never quantizes

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from prosparse.model.quantizing import Place, has_tied_head, hold, tie_head

        config = cast("ProSparseQuantizationConfig", self.quantization_config)
        is_tied = has_tied_head(model)
        by_input = set(config.by_input)
        for name, bits in config.bits.items():
            owner, _, child = name.rpartition(".")
            try:
                place = Place(name, model.get_submodule(owner), child, name in by_input, None)
                module = place.module
            except AttributeError:
                raise UserError(
                    f"config.json names {name} as quantized, which is not there."
                ) from None
            if not isinstance(module, nn.Module) or bits not in (4, 8):
                raise UserError(f"config.json says that {name} has {bits} bits; it cannot.")
            with torch.device("meta"):
                hold(place, bits, config.group_size)
        if is_tied:
            tie_head(model)
            forget_tied_head(model)

    def is_serializable(self) -> bool:  # type: ignore[override]
        """Packed weights are saved as they are."""
        return True

    @property
    def is_trainable(self) -> bool:  # type: ignore[override]
        """Packed weights have no gradient."""
        return False


def forget_tied_head(model: PreTrainedModel) -> None:
    """Take a head that is a `TiedHead` off transformers' list: there is no parameter to tie."""
    from prosparse.model.quantized import TiedHead

    names = [name for name, module in model.named_modules() if isinstance(module, TiedHead)]
    for name in names:
        model.all_tied_weights_keys.pop(f"{name}.weight", None)


def describe(model: PreTrainedModel, group_size: int) -> None:
    """Tell a model that was quantized in place what it is, so that it can be saved.

    Args:
        model: Some of its layers were exchanged by `prosparse.model.quantizing`.
        group_size: Values of a row that share a scale.
    """
    from prosparse.model.quantized import QuantizedLinear, QuantizedMatrix

    held = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedMatrix)}
    config = ProSparseQuantizationConfig(
        bits={name: module.bits for name, module in held.items()},
        by_input=[n for n, m in held.items() if isinstance(m, QuantizedLinear) and m.is_down],
        group_size=group_size,
    )
    model.config.quantization_config = config
    marks = {
        "hf_quantizer": ProSparseQuantizer(config),
        "is_quantized": True,
        "quantization_method": METHOD,
    }
    for name, mark in marks.items():  # those that transformers gives a model that it loads
        setattr(model, name, mark)
    forget_tied_head(model)


def register() -> None:
    """Make transformers know the format; a second call does nothing."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(ProSparseQuantizationConfig)
        register_quantizer(METHOD)(ProSparseQuantizer)
