# SPDX-License-Identifier: Apache-2.0
"""The model card of a checkpoint: what it is, how it was made, how it loads."""

from __future__ import annotations

import re
from pathlib import Path
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
pipeline_tag: text-generation
{base_model}tags:
- prosparse
- activation-sparsity
---

# A sparsely activated {model_type} model

Made by [prosparse](https://arxiv.org/abs/2402.13516) from `{base}`.
Its FFN activation function is **{activation}**.{caution}

{loading}
## How it was made

{steps}
"""
MADE_FROM = re.compile(r"^Made by \[prosparse\]\(\S+\) from `(.+)`\.$", re.MULTILINE)
STEPS = re.compile(r"^## How it was made\n\n((?:\d+\. .+\n)+)", re.MULTILINE)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(
    model: PreTrainedModel, base: str, notes: Sequence[str], *, caution: str = ""
) -> str:
    """Return the text of the README.md that goes with a checkpoint.

    A model that was read from a folder with such a card carries its steps on, so that the card of the
    last one tells of all: its data and tokens as well as its thresholds.

    Args:
        model: The model, as it is written.
        base: What it was made from, where that has no card of ours.
        notes: Sentences on the last step: what was done, on which data, and what was measured then.
        caution: A sentence on the model as it is now; the next card does not repeat it.
    """
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
    read_from = model.config.name_or_path
    origin, steps = (_earlier(Path(read_from)) if read_from else None) or (base, [])
    steps += [" ".join(notes)] if notes else []
    is_on_the_hub = HUB_ID.fullmatch(origin) and not Path(origin).exists()
    return CARD.format(
        base_model=f"base_model: {origin}\n" if is_on_the_hub else "",
        model_type=model_type,
        base=origin,
        activation=words.get(activation.name, activation.name),
        caution=f"\n{caution}" if caution else "",
        loading=loading.format(folder=".", model_type=model_type, activation=activation.name),
        steps="\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
        or "It is as it was loaded.",
    )


def _earlier(folder: Path) -> tuple[str, list[str]] | None:
    """Return what the model in a folder was made from, and in which steps, as its card has it."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    origin, listed = MADE_FROM.search(text), STEPS.search(text)
    if origin is None:
        return None
    lines = listed.group(1).splitlines() if listed else []
    return origin.group(1), [line.split(". ", maxsplit=1)[1] for line in lines]


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
