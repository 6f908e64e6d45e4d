# SPDX-License-Identifier: Apache-2.0
"""Run the contenders of the decode benchmark on one model: right results first, then times."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prosparse.benchmarking.decode_check import DenseDecode, check_tokens, dense_decode
from prosparse.benchmarking.decode_contenders import DecodeContender, own_loop
from prosparse.benchmarking.decode_exactness import FFNTrace, check_exactness, trace_ffns
from prosparse.benchmarking.decode_model import Traffic, layer_sparsity, traffic
from prosparse.benchmarking.decode_parts import bare
from prosparse.benchmarking.decode_runs import Decoded, forget_compiled
from prosparse.benchmarking.timing import Spread, spread
from prosparse.errors import UserError
from prosparse.records.decode_speed import DecodeRow, ExactnessCheck, TokenCheck
from prosparse.records.speed import NotRun

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOG = logging.getLogger(__name__)

WARM_UP_TOKENS = 8

OnRow = Callable[[DecodeRow], None]

BREAKDOWN = (
    "Attention, FFN and rest are told apart by timing the same loop without any FFN, and without "
    "FFN and attention: what is left of the latter is the rest (norms, residuals, embedding, head, "
    "choice), the difference of the two is attention, and a contender's own time above the former "
    "is its FFN. What overlaps in a whole step counts as the part that was taken out first."
)
NO_BREAKDOWN = "Attention, FFN and rest were not told apart: {reason}."


class DecodeRunner:
    """Runs the contenders on one model and keeps their rows."""

    dense: DenseDecode
    layer_sparsity: tuple[float, ...]
    traffic: Traffic
    _traces: list[FFNTrace]

    def __init__(
        self, model: PreTrainedModel, prompt: Tensor, num_tokens: int, runs: int, on_row: OnRow
    ) -> None:
        self._model, self._prompt, self._num_tokens = model, prompt, num_tokens
        self._runs, self._on_row = runs, on_row
        self._apart: tuple[float, float] | None = None
        self.rows: list[DecodeRow] = []
        self.exactness: dict[str, ExactnessCheck] = {}
        """By kind of sparse contender."""
        self.not_run: list[NotRun] = []

    def prepare(self) -> None:
        """Decode with the dense model, and measure what those tokens leave inactive."""
        self.dense = dense_decode(self._model, self._prompt, self._num_tokens)
        self._traces = trace_ffns(self._model, self._prompt, self.dense.tokens)
        fed = torch.tensor([self.dense.tokens[:-1]], device=self._prompt.device)
        ids = torch.cat([self._prompt, fed], dim=1)
        self.layer_sparsity = layer_sparsity(self._model, ids, fed.shape[1])
        self.traffic = traffic(self._model)

    def take_apart(self, entrants: Sequence[DecodeContender]) -> str:
        """Time our loop without FFN and without both; return how, or why that failed."""
        compiled = any(c.is_own_loop and c.is_compiled for c in entrants)
        try:
            no_ffn = self._bare_ms(compiled, keep_attention=True)
            rest = self._bare_ms(compiled, keep_attention=False)
        except Exception as error:  # a family whose attention is something else
            LOG.exception("taking the step apart failed")
            return NO_BREAKDOWN.format(reason=f"{type(error).__name__}: {error}".splitlines()[0])
        self._apart = (no_ffn - rest, rest)
        return BREAKDOWN

    def run(self, contender: DecodeContender) -> None:
        """Run a contender; it gets a time only if its tokens, logits and zeros are right."""
        try:
            row = self._run(contender)
        except UserError as error:  # the loop or the kernels do not take this model, and say why
            self.not_run.append(NotRun(contender.name, str(error)))
        except Exception as error:  # one that fails must not cost the times of all others
            LOG.exception("%s failed", contender.name)
            reason = f"failed with {type(error).__name__}: {error}".splitlines()[0]
            self.not_run.append(NotRun(contender.name, reason, is_failure=True))
        else:
            self.rows.append(row)
            self._on_row(with_speedups(self.rows)[-1])
        finally:
            forget_compiled(self._model)

    def _run(self, contender: DecodeContender) -> DecodeRow:
        length = self._prompt.shape[1] + self._num_tokens
        with contender.setup(self._model, length) as decode:
            is_exact = not (contender.is_dense or contender.is_approximate)
            exactness = self._check_exactness(contender) if is_exact else None
            decode(self._prompt, self._num_warm_up_tokens(contender))  # compiles and captures
            runs = [decode(self._prompt, self._num_tokens) for _ in range(self._runs)]
            own_check = self._check_tokens(runs) if contender.is_own_judge else None
        check = own_check or self._check_tokens(runs)
        is_wrong = check.is_wrong and not contender.is_approximate
        is_wrong = is_wrong or (exactness is not None and exactness.is_wrong)
        times = None if is_wrong else _pooled(runs)
        attention, rest = self._apart if self._apart and contender.is_own_loop else (None, None)
        return DecodeRow(
            contender=contender.name,
            is_dense=contender.is_dense,
            is_stock=contender.is_stock,
            check=check,
            ms=times.median if times else None,
            ms_p10=times.p10 if times else None,
            ms_p90=times.p90 if times else None,
            mb=contender.num_mb(self.traffic, self.layer_sparsity),
            attention_ms=attention,
            rest_ms=rest,
            is_approximate=contender.is_approximate,
        )

    def _num_warm_up_tokens(self, contender: DecodeContender) -> int:
        # Stock generate compiles anew for each length of its cache; our loop has one length.
        if contender.is_stock and contender.is_compiled:
            return self._num_tokens
        return min(WARM_UP_TOKENS, self._num_tokens)

    def _check_tokens(self, runs: Sequence[Decoded]) -> TokenCheck:
        texts = {tuple(run.tokens) for run in runs}
        checks = [check_tokens(self._model, self._prompt, text, self.dense) for text in texts]
        return next((found for found in checks if found.is_wrong), checks[0])

    def _check_exactness(self, contender: DecodeContender) -> ExactnessCheck:
        """Check the model as the contender has set it up; loop and compilation make no kind."""
        kind = contender.name.partition(",")[0]
        if kind not in self.exactness:
            self.exactness[kind] = check_exactness(
                kind, self._model, self._prompt, self.dense, self._traces
            )
        return self.exactness[kind]

    def _bare_ms(self, compiled: bool, keep_attention: bool) -> float:
        length = self._prompt.shape[1] + self._num_tokens
        try:
            with (
                bare(self._model, keep_attention=keep_attention),
                # As in a sparse decode, or attention may seem three times what it is.
                own_loop(compiled, keeps_shared_inputs=True)(self._model, length) as decode,
            ):
                decode(self._prompt, self._num_tokens)
                return _pooled([decode(self._prompt, self._num_tokens)]).median
        finally:
            forget_compiled(self._model)


def with_speedups(rows: Sequence[DecodeRow]) -> tuple[DecodeRow, ...]:
    """Return the rows with their speedups over the fastest dense row so far."""
    dense = min((row.ms for row in rows if row.is_dense and row.ms is not None), default=None)
    return tuple(
        replace(row, speedup=None if dense is None or row.ms is None else dense / row.ms)
        for row in rows
    )


def _pooled(runs: Sequence[Decoded]) -> Spread:
    return spread([ms for run in runs for ms in run.step_ms])
