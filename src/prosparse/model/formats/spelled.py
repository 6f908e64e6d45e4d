# SPDX-License-Identifier: Apache-2.0
"""Activations and their numbers, in any family's config: in one word, or one without the other.

The word is `fatrelu_0.01` or `shiftrelu_0.3`.

Source: the activation table of thunlp/BlockFFN and Raincleared-Song/DejaVu_predictor.
"""

from __future__ import annotations

import re

from prosparse.model.activation import NUMBERS, PARAM_KEY
from prosparse.model.families import FAMILIES
from prosparse.model.formats.format import Config, Unfit

NAMES = {"fatrelu": "fatrelu", "shiftrelu": "shifted_relu"}
KEYS = sorted({family.config_key for family in FAMILIES.values() if family.config_key})
SPELLED = re.compile(rf"({'|'.join(NAMES)})_(.*)")


def parted(config: Config) -> Config:
    """Return the config with name and number in two keys; the config itself where they are already.

    Raises:
        Unfit: What follows the name is no number >= 0, the config has a second one, or it has a number
            for an activation that takes none and would not heed it.
    """
    for key in KEYS:
        match = SPELLED.fullmatch(str(config.get(key)))
        if match is None:
            continue
        name, number = match.groups()
        if re.fullmatch(r"\d+(\.\d*)?([eE]-?\d+)?", number) is None:
            raise Unfit(f"the number of its {key} '{match.group()}' is no number >= 0")
        if config.get(PARAM_KEY) not in (None, float(number)):
            raise Unfit(f"its {key} is {match.group()} and its {PARAM_KEY} is {config[PARAM_KEY]}")
        return {**config, key: NAMES[name], PARAM_KEY: float(number)}
    names = [str(config[key]) for key in KEYS if config.get(key) is not None]
    if config.get(PARAM_KEY) and names and not any(name in NUMBERS for name in names):
        raise Unfit(
            f"its activation is {' and '.join(names)}, which would not heed its {PARAM_KEY} of "
            f"{config[PARAM_KEY]}"
        )
    return config
