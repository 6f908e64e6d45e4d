# SPDX-License-Identifier: Apache-2.0
"""The table of published formats, and which of them a config is of."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from prosparse.errors import UserError
from prosparse.model.formats.bamboo import BAMBOO
from prosparse.model.formats.cats import CATS
from prosparse.model.formats.format import Config, Format, Unfit, without
from prosparse.model.formats.minicpm import MINICPM
from prosparse.model.formats.sakana import SAKANA
from prosparse.model.formats.sparsellama import SPARSELLAMA
from prosparse.model.formats.spelled import parted

FORMATS: tuple[Format, ...] = (SPARSELLAMA, MINICPM, SAKANA, BAMBOO, CATS)
# Of the class and the code that a checkpoint came with; not of the stock model that it becomes.
CAME_WITH = ("auto_map", "architectures")


def stock_config(config: Config, source: str) -> Config | None:
    """Return the config that stock transformers takes for the model of a published format.

    Args:
        config: The content of a config.json.
        source: What it is of, for messages.

    Returns:
        The translated config, or None where transformers reads this one as it is.

    Raises:
        UserError: It is of a format but not wholly, it names a stock model and has the keys of another
            one, or neither transformers nor prosparse knows it.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return None
    row = next((row for row in FORMATS if fnmatchcase(model_type, row.model_type)), None)
    try:
        if row is None:
            _refuse_foreign(config, model_type, source)
            stock = parted(config)
            return None if stock is config else stock
        return parted(row.stock(without(config, CAME_WITH)))
    except Unfit as unfit:
        what = _named(row or nearest(config))
        raise UserError(
            f"{source} is nearly in the format of {what}, but {unfit}; correct its config.json, or "
            "allow its own modeling code to run (trust_remote_code)."
        ) from None


def nearest(config: Config) -> Format:
    """Return the format with which a config has most in common: keys first, then the name."""

    def likeness(row: Format) -> tuple[float, float]:
        shared = len(row.marks & config.keys()) / max(1, len(row.marks))
        name = str(config.get("model_type"))
        return shared, difflib.SequenceMatcher(None, name, row.model_type).ratio()

    return max(FORMATS, key=likeness)


def _refuse_foreign(config: Config, model_type: str, source: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"{source} has model_type '{model_type}', which neither transformers nor prosparse knows; "
            f"the nearest published format is that of {_named(nearest(config))}. Modeling code that "
            "comes with a checkpoint runs only if trust_remote_code allows it (--trust-remote-code)."
        )
    known = CONFIG_MAPPING[model_type]
    for row in FORMATS:
        # hidden_act_param alone is no mark of another format: we write it into stock configs, too.
        foreign = row.marks - {"hidden_act_param"}
        if foreign and all(key in config and not hasattr(known, key) for key in foreign):
            raise UserError(
                f"{source} has model_type '{model_type}' and the keys {', '.join(sorted(foreign))} of "
                f"{_named(row)}, which a stock {model_type} would not heed; set its model_type to "
                "that, or remove the keys."
            )


def _named(row: Format) -> str:
    return f"{row.publisher} (model_type '{row.model_type}')"
