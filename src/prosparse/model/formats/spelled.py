# SPDX-License-Identifier: Apache-2.0
"""Activations whose number is in their name: `fatrelu_0.01`, `shiftrelu_0.3`, in any family's config.

Source: the activation table of thunlp/BlockFFN and Raincleared-Song/DejaVu_predictor.
"""

from __future__ import annotations

import re

from prosparse.model.activation import PARAM_KEY
from prosparse.model.families import FAMILIES
from prosparse.model.formats.format import Config, Unfit

NAMES = {"fatrelu": "fatrelu", "shiftrelu": "shifted_relu"}
KEYS = sorted({family.config_key for family in FAMILIES.values() if family.config_key})
SPELLED = re.compile(rf"({'|'.join(NAMES)})_(.*)")


def parted(config: Config) -> Config:
    """Return the config with name and number in two keys; the config itself where they are already.

    Raises:
        Unfit: What follows the name is no number >= 0, or the config has a second one.
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
    return config
