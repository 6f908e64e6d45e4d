# SPDX-License-Identifier: Apache-2.0
"""`minicpm`: Llama with scaled embeddings, residuals and logits (MiniCPM-S, Sparsing-Law models).

transformers has the same model as Granite, with the factors under other names:

- token embeddings times `scale_emb`;
- what attention and FFN add to the residual stream times `scale_depth` / sqrt(layers);
- the last hidden state divided by `hidden_size` / `dim_model_base` (Granite divides the logits);
- attention scores divided by sqrt(head size), as in Llama.

Source: OpenBMB's modeling_minicpm.py, as copies of it agree.
"""

from __future__ import annotations

import math

from prosparse.model.formats.format import Config, Format, need, refuse, without

SCALES = frozenset({"scale_emb", "scale_depth", "dim_model_base"})


def _stock(config: Config) -> Config:
    need(config, [*sorted(SCALES), "hidden_size", "num_hidden_layers", "num_attention_heads"])
    if config.get("hidden_act") == "fatrelu":
        need(config, ["hidden_act_param"])
    refuse(
        config, ["num_experts"], "a mixture of experts, where every layer must have one dense FFN"
    )
    refuse(config, ["sparse_config"], "the sparse attention of MiniCPM4, which Granite has not")
    refuse(config, ["rope_scaling"], "whose arithmetic in MiniCPM's own code was not verified")
    refuse(config, ["kv_channels"], "heads of another size than hidden_size / num_attention_heads")
    d_model, num_layers = config["hidden_size"], config["num_hidden_layers"]
    return {
        # MiniCPM's own default, which its configs leave out; Granite's is the other one.
        "tie_word_embeddings": True,
        **without(config, SCALES),
        "model_type": "granite",
        "embedding_multiplier": config["scale_emb"],
        "residual_multiplier": config["scale_depth"] / math.sqrt(num_layers),
        "attention_multiplier": (d_model // config["num_attention_heads"]) ** -0.5,
        "logits_scaling": d_model / config["dim_model_base"],
    }


MINICPM = Format(
    publisher="OpenBMB's MiniCPM-S",
    model_type="minicpm",
    marks=SCALES,
    stock=_stock,
)
