# SPDX-License-Identifier: Apache-2.0
"""The model card of a checkpoint: what it is, how it was made, how it loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.model.relufy import activation_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

LOADS_PLAIN = """\
It loads in stock transformers:

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{folder}")
```
"""

LOADS_WITH_US = """\
Stock transformers does not know this activation function, so import prosparse first:

```python
import prosparse
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{folder}")  # or: prosparse.load("{folder}")
```
"""

LOADS_QUANTIZED = """\
Its weights are packed in prosparse's own format, so import prosparse first; without it, loading fails:

```python
import prosparse
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{folder}")  # or: prosparse.load("{folder}")
```
"""

ONLY_WITH_US = """\
**Load it with prosparse.** The modeling code of `{model_type}` hard-codes its activation function,
so `AutoModelForCausalLM` alone would silently run the dense one:

```python
import prosparse
model = prosparse.load("{folder}")
```
"""

CARD = """\
---
library_name: transformers
tags:
- prosparse
- activation-sparsity
---

# A sparsely activated {model_type} model

Made by [prosparse](https://arxiv.org/abs/2402.13516) from `{base}`.
Its FFN activation function is **{activation}**.

{loading}
{notes}"""


def model_card(model: PreTrainedModel, base: str, notes: Sequence[str]) -> str:
    """Return the text of the README.md that goes with a checkpoint."""
    from prosparse.model.ffn import ffns
    from prosparse.model.quantizing import is_quantized

    activation = activation_of(model)
    model_type = model.config.model_type
    if ffns(model)[0].family.config_key is None:
        loading = ONLY_WITH_US
    elif is_quantized(model):
        loading = LOADS_QUANTIZED
    else:
        loading = LOADS_PLAIN if activation.name == "relu" else LOADS_WITH_US
    words = {
        "relu": "ReLU (`hidden_act: relu`)",
        "fatrelu": f"FATReLU, x where x >= {activation.param}, else 0 "
        f"(`hidden_act: fatrelu`, `hidden_act_param: {activation.param}`)",
        "shifted_relu": f"shifted ReLU, max(x - {activation.param}, 0) "
        f"(`hidden_act: shifted_relu`, `hidden_act_param: {activation.param}`)",
    }
    return CARD.format(
        model_type=model_type,
        base=base,
        activation=words.get(activation.name, activation.name),
        loading=loading.format(folder=".", model_type=model_type),
        notes="\n".join(notes) + "\n",
    )
