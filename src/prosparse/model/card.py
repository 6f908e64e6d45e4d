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

Without prosparse it loads by the code beside it, `modeling_prosparse.py`, if you allow that to run:

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)
```

With neither, transformers refuses it (`KeyError: '{activation}'`).
"""

ONLY_WITH_US = """\
**Load it with prosparse.** The modeling code of `{model_type}` hard-codes its activation function,
so `AutoModelForCausalLM` alone would silently run the dense one:

```python
import prosparse
model = prosparse.load("{folder}")
```

Without prosparse, `AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)` runs the
code beside it, `modeling_prosparse.py`.
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

    activation = activation_of(model)
    model_type = model.config.model_type
    if ffns(model)[0].family.config_key is None:
        loading = ONLY_WITH_US
    else:
        loading = LOADS_PLAIN if activation.name == "relu" else LOADS_WITH_US
    words = {
        "relu": "ReLU (`hidden_act: relu`)",
        "fatrelu": _fatrelu(activation.param),
        "shifted_relu": f"shifted ReLU, max(x - {activation.param}, 0) "
        f"(`hidden_act: shifted_relu`, `hidden_act_param: {activation.param}`)",
    }
    return CARD.format(
        model_type=model_type,
        base=base,
        activation=words.get(activation.name, activation.name),
        loading=loading.format(folder=".", model_type=model_type, activation=activation.name),
        notes="\n".join(notes) + "\n",
    )


def _fatrelu(param: float | tuple[float, ...] | None) -> str:
    if isinstance(param, tuple):
        return (
            f"FATReLU, x where x >= t, else 0, t from {min(param):.4g} to {max(param):.4g} by layer "
            "(`hidden_act: fatrelu`, `hidden_act_param`: a list)"
        )
    return f"FATReLU, x where x >= {param}, else 0 (`hidden_act: fatrelu`, `hidden_act_param: {param}`)"
