# SPDX-License-Identifier: Apache-2.0
"""Text to learn layers by, other text to choose thresholds by, and other still to check the choice on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prosparse.measurement.perplexity import Windows
from prosparse.measurement.run import read_windows
from prosparse.thresholds.layers import COST_TOKENS, beginnings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def learning_and_judging(choosing: Sequence[Windows]) -> tuple[list[Windows], list[Windows]]:
    """Return the windows that layers are learned by, and the rest, which candidates are judged on.

    The former are `COST_TOKENS` in all, as far as they are under half of a data set. One of a single window
    does both.
    """
    learning, judging = [], []
    for part in beginnings(choosing, COST_TOKENS):
        whole = next(w for w in choosing if w.name == part.name)
        num_windows = len(whole.ids_WS)
        cut = min(len(part.ids_WS), num_windows // 2)
        learning.append(Windows(whole.name, whole.source, whole.ids_WS[: cut or num_windows]))
        judging.append(Windows(whole.name, whole.source, whole.ids_WS[cut:]))
    return learning, judging
