# SPDX-License-Identifier: Apache-2.0
"""`sparsellama`: Llama whose FFN activation is `hidden_act` with `hidden_act_param`.

Source: config.json of SparseLLM/prosparse-llama-2-7b. Its modeling code was not seen; what it computes is
taken from the paper (Section 3.2, Eq. 3) and from the keys.
"""

from __future__ import annotations

from prosparse.model.formats.format import Config, Format, Unfit, need


def _stock(config: Config) -> Config:
    need(config, ["hidden_act"])
    if config["hidden_act"] == "fatrelu":
        need(config, ["hidden_act_param"])
    elif not config["hidden_act"].startswith(("relu", "fatrelu_", "shiftrelu_")):
        raise Unfit(f"its hidden_act is {config['hidden_act']}, not fatrelu or relu")
    return {**config, "model_type": "llama"}


SPARSELLAMA = Format(
    publisher="SparseLLM's ProSparse-LLaMA2",
    model_type="sparsellama",
    marks=frozenset({"hidden_act_param"}),
    stock=_stock,
)
