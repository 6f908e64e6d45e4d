# SPDX-License-Identifier: Apache-2.0
"""Text to choose thresholds by, and other text to check the choice on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.measurement.perplexity import Windows
from prosparse.measurement.run import read_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from prosparse.data.sources import Source


def choosing_and_checking(
    data: Mapping[str, Source],
    check_data: Mapping[str, Source],
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    num_tokens: int,
) -> tuple[list[Windows], list[Windows]]:
    """Return the windows that thresholds are chosen by, and those that the choice is checked on.

    The former are the first `num_tokens` tokens of each data set, the latter the first of each one in
    `check_data`, or when that is empty up to as many of `data` again, those that follow. A data set
    with fewer than two windows left takes no part in the check: one has no standard error.

    Raises:
        UserError: As `read_windows`.
    """
    if check_data:
        return (
            read_windows(data, tokenizer, context_length, num_tokens),
            read_windows(check_data, tokenizer, context_length, num_tokens),
        )
    wanted = num_tokens // context_length
    # What is not a whole window is left out first, or it would move the second part.
    asked = 2 * wanted * context_length if wanted else num_tokens
    found = read_windows(data, tokenizer, context_length, asked)
    choosing = [Windows(w.name, w.source, w.ids_WS[:wanted]) for w in found]
    rest = [Windows(w.name, w.source, w.ids_WS[wanted:]) for w in found]
    return choosing, [w for w in rest if len(w.ids_WS) > 1]
