# SPDX-License-Identifier: Apache-2.0
"""The model card of a checkpoint: what it is, how it was made, how it loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.model.input_thresholds import KEY as INPUT_THRESHOLDS
from prosparse.model.relufy import activation_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from prosparse.records.sparsity import Activation

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

Without prosparse, `AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)` runs the
code beside it, `modeling_prosparse.py`.
"""

CUTS_INPUTS = """\
**Load it with prosparse.** The inputs of the FFN's projections are cut at the thresholds in
`ffn_input_thresholds` of config.json (TEAL), which transformers alone would not do and not say:

```python
import prosparse
model = prosparse.load("{folder}")
```

Without prosparse, `AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)` runs the
code beside it, `modeling_prosparse.py`, which cuts them too.
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
    if hasattr(model.config.get_text_config(), INPUT_THRESHOLDS):
        loading = CUTS_INPUTS
    elif ffns(model)[0].family.config_key is None:
        loading = ONLY_WITH_US
    elif is_quantized(model):
        loading = LOADS_QUANTIZED
    else:
        loading = LOADS_PLAIN if activation.name == "relu" else LOADS_WITH_US
    words = {
        "relu": "ReLU (`hidden_act: relu`)",
        "fatrelu": _with_threshold("FATReLU, x where x >= {t}", activation),
        "thresholded_silu": _with_threshold(
            "thresholded SiLU, silu(x) where |silu(x)| > {t}", activation
        ),
        "drelu": "dReLU, relu(gate) * relu(up) (`hidden_act: drelu`)",
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


def _with_threshold(words: str, activation: Activation) -> str:
    """Return `words`, which has {t} for the threshold, and the keys that say so in config.json."""
    param = activation.param
    if isinstance(param, tuple):
        return (
            f"{words.format(t='t')}, else 0, t from {min(param):.4g} to {max(param):.4g} by layer "
            f"(`hidden_act: {activation.name}`, `hidden_act_param`: a list)"
        )
    return (
        f"{words.format(t=param)}, else 0 "
        f"(`hidden_act: {activation.name}`, `hidden_act_param: {param}`)"
    )
