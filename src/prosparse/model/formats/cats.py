# SPDX-License-Identifier: Apache-2.0
"""`sparse_mistral`, `sparse_llama`: silu(gate) is zero where its magnitude is not above a threshold.

One threshold for each layer (CATS; Lee et al., 2024). The same code serves as the ReLU baseline of that
paper, `use_relu`.

Source: experiments/models/sparse_mistral/sparse_silu.py of ScalingIntelligence/CATS. The Llama
counterpart is not among its files; that it has the same keys and the name `sparse_llama` is inferred
from the imports of sparse_silu/utils.py.
"""

from __future__ import annotations

from prosparse.model.formats.format import Config, Format, Unfit, need, refuse, without

OWN = (
    "thresholds",
    "use_sparse_model",
    "use_sparse_predictor",
    "use_sparse_regularization",
    "use_graceful_regularization",
    "use_relu",
    "use_resilu",
    "cut_pre_mlp",
    "cut_pre_attn",
    "pre_mlp_thresholds",
    "pre_attn_thresholds",
    "init_svd",
)
BASES = ("mistral", "llama")


def _stock(config: Config) -> Config:
    base = config["model_type"].removeprefix("sparse_")
    if base not in BASES:
        raise Unfit(f"its base '{base}' is none of {', '.join(BASES)}")
    need(config, ["use_sparse_model", "num_hidden_layers"])
    refuse(config, ["use_sparse_predictor"], "which skips what a predictor says is zero")
    refuse(config, ["use_resilu"], "an activation that was not published with the paper")
    refuse(config, ["cut_pre_mlp", "cut_pre_attn"], "cuts outside the FFN's activation")
    return {**without(config, OWN), "model_type": base, **_activation(config)}


def _activation(config: Config) -> Config:
    thresholds = config.get("thresholds")
    if not config["use_sparse_model"]:
        return {"hidden_act": "silu"}
    if config.get("use_relu"):
        return {"hidden_act": "relu"}
    if thresholds is None:
        return {"hidden_act": "silu"}
    if len(thresholds) != config["num_hidden_layers"]:
        raise Unfit(
            f"it lists {len(thresholds)} thresholds for {config['num_hidden_layers']} layers"
        )
    return {"hidden_act": "thresholded_silu", "hidden_act_param": [float(t) for t in thresholds]}


CATS = Format(
    publisher="CATS' SparseMistral",
    model_type="sparse_*",
    marks=frozenset({"thresholds", "use_sparse_model"}),
    stock=_stock,
)
