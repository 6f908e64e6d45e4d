# SPDX-License-Identifier: Apache-2.0
"""An lm-eval model that asks another one, chunk by chunk, and remembers its answers on disk."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM
from tqdm import tqdm

from prosparse.errors import UserError
from prosparse.evaluation.answer_cache import AnswerFile, Chunk, requests_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lm_eval.api.instance import Instance

    from prosparse.evaluation.answering import AnsweringModel
    from prosparse.evaluation.zeros import ZeroMeter

ITEMS_IN_CHUNK = 16


class RememberingModel(LM):
    """Answers one task: from the file what it has, from the model the rest.

    Args:
        model: What answers.
        meter: Counts zeros meanwhile; None counts nothing.
        file: Answers so far.
        title: Of the progress bar.
        progress: Show it.
        asks: Whether the model may be asked at all.
    """

    def __init__(
        self,
        model: AnsweringModel,
        meter: ZeroMeter | None,
        file: AnswerFile,
        title: str,
        progress: bool,
        asks: bool = True,
    ) -> None:
        super().__init__()
        self._model, self._meter, self._file = model, meter, file
        self._title, self._progress, self._asks = title, progress, asks
        self.chunks: list[Chunk] = []
        """All that this object has answered."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy decoding would write it) of each continuation."""
        return [(ll, greedy) for ll, greedy in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of each text."""
        return self._answer("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return what the model writes after each prompt."""
        return self._answer("generate_until", requests)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as the model's chat template writes it."""
        return self._model.apply_chat_template(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer, which lm-eval asks for with a chat template."""
        return self._model.tokenizer_name

    def _answer(self, kind: str, requests: list[Instance]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        bar = tqdm(total=len(requests), desc=self._title, disable=not self._progress)
        with bar:
            for indices in self._in_chunks(requests):
                asked = [requests[index] for index in indices]
                key = requests_key(kind, [request.args for request in asked])
                chunk = self._file.get(key)
                if chunk is None:
                    if not self._asks:
                        raise UserError(
                            f"{self._title}: the cache holds only a part of the answers. Finish that "
                            "evaluation where it was begun, or leave out --from-cache."
                        )
                    chunk = self._ask(kind, asked)
                    self._file.add(key, chunk)
                self.chunks.append(chunk)
                for index, answer in zip(indices, chunk.answers, strict=True):
                    answers[index] = answer
                bar.update(len(indices))
        return answers

    def _ask(self, kind: str, requests: list[Instance]) -> Chunk:
        model, meter = self._model, self._meter
        model.num_unended = model.num_cut_prompts = 0
        started = time.monotonic()
        with contextlib.nullcontext() if meter is None else meter.watch():
            answers = getattr(model, kind)(requests, disable_tqdm=True)
        seconds = time.monotonic() - started
        active_L, num_tokens = ([], 0) if meter is None else meter.take()
        return Chunk(
            answers, seconds, active_L, num_tokens, model.num_unended, model.num_cut_prompts
        )

    def _in_chunks(self, requests: list[Instance]) -> Iterator[list[int]]:
        """Yield indices of requests, whole items together, longest first.

        So batches are of like length, and the time left is over- rather than underestimated.
        """
        of_item: dict[Any, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            of_item[request.doc_id].append(index)

        def length(indices: list[int]) -> int:
            return -max(len(str(requests[index].args)) for index in indices)

        items = sorted(of_item.values(), key=length)
        in_chunk = max(ITEMS_IN_CHUNK, self._model.batch_size)
        for start in range(0, len(items), in_chunk):
            yield [index for item in items[start : start + in_chunk] for index in item]
