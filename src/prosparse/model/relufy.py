# SPDX-License-Identifier: Apache-2.0
"""Step 1 of ProSparse: put ReLU where Swish or GELU was, weights untouched (Section 3.2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prosparse.model.activation import (
    PARAM_KEY,
    build_activation,
    make_activation,
    param_from_config,
    params_of_layers,
)
from prosparse.model.drelu import refuse_plain
from prosparse.model.ffn import ffns
from prosparse.records.files import refuse_existing, whole_folder, write_record
from prosparse.records.run import RelufyRecord
from prosparse.records.sparsity import Activation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Where the activation of a family whose config has no such field is written down.
OWN_KEY = "hidden_act"


def activation_of(model: PreTrainedModel) -> Activation:
    """Return the FFN activation function that a model's config names.

    A family whose modeling code hard-codes its activation (bloom) is named after the module.
    """
    config = model.config.get_text_config()
    ffn = ffns(model)[0]
    name = getattr(config, ffn.family.config_key or OWN_KEY, None)
    if name is None:
        name = type(ffn.activation).__name__
    return Activation(str(name), param_from_config(config))


def relufy_in_place(model: PreTrainedModel, activation: Activation) -> Activation:
    """Replace every FFN's activation function, in the modules and in the config.

    Args:
        model: A transformers causal language model.
        activation: What to put in, from `make_activation`.

    Returns:
        The activation that was there before.

    Raises:
        UserError: The model's FFNs were not found, or have no gate and dReLU needs one.
    """
    found = ffns(model)
    replaced = activation_of(model)
    if activation.name == "drelu":
        refuse_plain(found[0].family)
    config = model.config.get_text_config()
    setattr(config, found[0].family.config_key or OWN_KEY, activation.name)
    if isinstance(activation.param, tuple):
        setattr(config, PARAM_KEY, list(activation.param))
    elif activation.param is not None:
        setattr(config, PARAM_KEY, activation.param)
    elif hasattr(config, PARAM_KEY):
        delattr(config, PARAM_KEY)
    for ffn, param in zip(found, params_of_layers(activation.param, len(found)), strict=True):
        ffn.set_activation(build_activation(activation.name, param))
    return replaced


def relufy(
    model: str | Path,
    *,
    out: str | Path,
    activation: str = "relu",
    bias: float | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> RelufyRecord:
    """Write a copy of a checkpoint whose FFNs use a sparse activation function.

    Args:
        model: Local folder, GGUF file or hub id of a causal language model.
        out: Folder to write; it gets the checkpoint and `record.json`.
        activation: `relu`, `drelu`, `shifted-relu` (needs `bias`), `fatrelu` or
            `thresholded-silu` (these need `threshold`).
        bias: b of max(x - b, 0).
        threshold: t of FATReLU, which keeps x >= t, or of thresholded SiLU, which keeps |silu(x)| > t.
        overwrite: Replace `out` if it exists.
        trust_remote_code: Run modeling code that comes with the checkpoint.

    Returns:
        The record that was written.

    Raises:
        UserError: The model cannot be loaded, is no causal language model, its FFNs were not
            found, an option does not fit, or `out` exists.

    Example:
        >>> import prosparse as ps
        >>> ps.relufy("HuggingFaceTB/SmolLM2-135M", out="smollm2-relu")
    """
    from prosparse.model.checkpoint import load, load_tokenizer, save
    from prosparse.model.device import provenance

    chosen = make_activation(activation, bias=bias, threshold=threshold)
    out = Path(out)
    refuse_existing(out, overwrite)
    network = load(model, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    replaced = relufy_in_place(network, chosen)
    ffn = ffns(network)[0]
    record = RelufyRecord(
        model=str(model),
        replaced=replaced,
        activation=chosen,
        num_layers=len(ffns(network)),
        d_model=ffn.d_model,
        d_ff=ffn.d_ff,
        provenance=provenance("cpu"),
    )
    with whole_folder(out, overwrite) as folder:
        save(
            network,
            tokenizer,
            folder,
            base=str(model),
            notes=[f"Its activation was changed from {replaced.name}; its weights are untouched."],
            caution="**Nothing has been trained since that was put in**; until it is, expect nonsense.",
        )
        write_record(record, folder)
    return record
