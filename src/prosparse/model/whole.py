# SPDX-License-Identifier: Apache-2.0
"""Refuse a checkpoint that is not a whole causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prosparse.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Arguments of `from_pretrained` under which `refuse_incomplete` sees all that did not fit.
STRICTLY: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}


def refuse_non_causal(config: PreTrainedConfig, name: str) -> None:
    """Raise unless a config belongs to a causal language model.

    Raises:
        UserError: It names another kind of model, such as an encoder.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = list(config.architectures or [])
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    # A BERT is "known" (transformers has a BertLMHeadModel), so what the checkpoint itself says
    # goes first.
    if remote or (any(name in causal for name in named) if named else known):
        return
    what = " / ".join(named) or f"'{config.model_type}' model"
    raise UserError(
        f"{name} is a {what}, not a causal language model; prosparse works on models that "
        "transformers loads with AutoModelForCausalLM."
    )


def refuse_incomplete(loading_info: dict[str, Any], name: str) -> None:
    """Raise unless every weight came from the checkpoint: transformers makes up what is missing.

    Args:
        loading_info: What `from_pretrained` returned, called with `STRICTLY`.
        name: Of the checkpoint, for the message.

    Raises:
        UserError: A weight is missing or has another shape than the config says.
    """
    missing = sorted(loading_info["missing_keys"])
    mismatched = sorted(key for key, *_ in loading_info["mismatched_keys"])
    if missing or mismatched:
        what = "lacks" if missing else "and its config.json disagree about the shape of"
        found = missing or mismatched
        others = f" and {len(found) - 1} more weights" if len(found) > 1 else ""
        raise UserError(f"{name} {what} {found[0]}{others}: the checkpoint is not whole.")
