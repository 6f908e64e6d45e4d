# SPDX-License-Identifier: Apache-2.0
"""pass@1 of one generated answer: lm-eval calls these for `process_results` (`tasks/*.yaml`)."""

from __future__ import annotations

from typing import Any

from prosparse.evaluation.sandbox import PASSED, judge


def humaneval(item: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Return whether the prompt, gone on with by the answer, passes its tests."""
    return _score(f"{item['prompt']}{answers[0]}\n{item['test']}\ncheck({item['entry_point']})\n")


def mbpp(item: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Return whether the answer passes the item's assertions."""
    tests = "\n".join(item["test_list"])
    return _score(f"{answers[0]}\n{item.get('test_setup_code') or ''}\n{tests}\n")


def _score(program: str) -> dict[str, float]:
    return {"pass@1": float(judge(program) == PASSED)}
