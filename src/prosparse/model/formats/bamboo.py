# SPDX-License-Identifier: Apache-2.0
"""`bamboo`: Mistral with dReLU, x_1 = relu(gate) * relu(up) (Bamboo, TurboSparse-Mistral).

TurboSparse-Mistral's files also hold a predictor for each layer (`mlp.predictor.fc1.weight`, `fc2.weight`),
which says beforehand what will be zero; it is not read, for the FFN is computed exactly.

Sources: BambooMLP in the model card of Bamboo; config.json and configuration_bamboo.py of
TurboSparse-Mistral. Whether its modeling code lets the predictor change the result was not seen.
"""

from __future__ import annotations

from prosparse.model.formats.format import Config, Format, Unfit, need


def _stock(config: Config) -> Config:
    need(config, ["hidden_act"])
    if config["hidden_act"] != "relu":
        raise Unfit(f"its hidden_act is {config['hidden_act']}, not relu")
    # Defaults of BambooConfig that differ from Mistral's.
    defaults = {"max_position_embeddings": 4096 * 32, "rms_norm_eps": 1e-6, "sliding_window": 4096}
    return {**defaults, **config, "model_type": "mistral", "hidden_act": "drelu"}


BAMBOO = Format(
    publisher="PowerInfer's Bamboo and TurboSparse-Mistral",
    model_type="bamboo",
    marks=frozenset(),
    stock=_stock,
)
