# SPDX-License-Identifier: Apache-2.0
"""`llama_sparse_relu`, `qwen2_sparse_relu`: a base model whose FFN has ReLU, or ReLU and no gate.

The `hidden_act: silu` of their configs is a leftover of the base: the modeling code does not read it.
Without a gate the model is transformers' Arcee, which is Llama with a plain FFN.

Source: custom_models/sparse_models.py of SakanaAI/sparser-faster-llms.
"""

from __future__ import annotations

from prosparse.model.formats.format import Config, Format, Unfit, refuse, without

SUFFIX = "_sparse_relu"
PREFIX = "sparsity_"
PLAIN = {"llama": "arcee"}
BASES = ("llama", "qwen2")


def _stock(config: Config) -> Config:
    base = config["model_type"].removesuffix(SUFFIX)
    is_gated = config.get("sparsity_gated_mlp", True)
    if base not in BASES:
        raise Unfit(f"its base '{base}' is none of {', '.join(BASES)}")
    if not is_gated and base not in PLAIN:
        raise Unfit(f"transformers has no {base} whose FFN has no gate")
    if base == "qwen2":
        refuse(config, ["mlp_bias"], "which transformers' Qwen2 has not")
    if is_gated:
        refuse(config, ["sparsity_use_hybrid_kernel"], "which stores down_proj transposed")
    own = [key for key in config if key.startswith(PREFIX)]
    d_ff = config.get("sparsity_new_intermediate_size") or config.get("intermediate_size")
    stock = {
        **without(config, own),
        "model_type": base if is_gated else PLAIN[base],
        "hidden_act": "relu",
    }
    return stock if d_ff is None else {**stock, "intermediate_size": d_ff}


SAKANA = Format(
    publisher="Sakana AI's SparseLM",
    model_type=f"*{SUFFIX}",
    marks=frozenset({"sparsity_gated_mlp", "sparsity_l1_coeff"}),
    stock=_stock,
)
