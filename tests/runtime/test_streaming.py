# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

import prosparse as ps
from prosparse.runtime import streaming as module
from prosparse.runtime.streaming import CallbackStreamer, Pace


def test_the_pace_counts_from_the_first_arrival(relu_checkpoint, monkeypatch):
    times = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    pieces = []
    streamer = CallbackStreamer(ps.load_tokenizer(relu_checkpoint), pieces.append)
    assert streamer.pace() == Pace(0, 0, 0.0)
    streamer.put(torch.tensor([[70, 71, 72]]))  # the prompt
    streamer.put(torch.tensor([73]))
    assert streamer.pace() == Pace(1, 0, 0.0)
    streamer.put(torch.tensor([74, 75]))
    streamer.put(torch.tensor([76]))
    streamer.end()
    assert streamer.pace() == Pace(4, 3, 2.0)
    assert len("".join(pieces)) == 4


@pytest.mark.parametrize(
    ("pace", "words"),
    [
        (Pace(1, 0, 0.0), "1 token"),
        (Pace(5, 4, 2.0), "5 tokens, 2.0/s"),
        (Pace(5, 4, 2.0) + Pace(7, 6, 3.0), "12 tokens, 2.0/s"),
    ],
)
def test_in_words(pace, words):
    assert str(pace) == words
