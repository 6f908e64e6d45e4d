# SPDX-License-Identifier: Apache-2.0
"""`ps.inspect` against activations that are kept whole."""

import sys

import pytest
import torch

import prosparse as ps
from prosparse.data.sources import Source
from prosparse.data.windows import windows as cut_windows
from prosparse.errors import UserError
from prosparse.measurement.firing import TOKENS_AFTER, TOKENS_BEFORE
from prosparse.measurement.inspection import pieces
from prosparse.records.files import read_record

LENGTH, TOKENS = 32, 640
SHORT = {
    "tokens": TOKENS,
    "context_length": LENGTH,
    "precision": "float32",
    "device": "cpu",
    "progress": False,
}


def kept(checkpoint, path, layer):
    """Return token ids [W, S] and the layer's whole x_1 [W, S, F], by a hook of our own."""
    model, tokenizer = ps.load(checkpoint), ps.load_tokenizer(checkpoint)
    ids = cut_windows(Source(str(path)), "text", tokenizer, LENGTH, TOKENS)
    seen = []
    hook = model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(ids)
    hook.remove()
    return ids, seen[0]


def test_the_strongest_places_are_those_of_all_activations(relu_checkpoint, texts, tmp_path):
    out = tmp_path / "out"
    record = ps.inspect(
        relu_checkpoint,
        {"prose": texts["prose"]},
        layer=1,
        neurons=[5, 40],
        top=4,
        out=out,
        **SHORT,
    )
    assert read_record(out) == record
    ids, x1 = kept(relu_checkpoint, texts["prose"], 1)

    for found in record.neurons:
        own = x1[:, :, found.neuron].clone()
        own[:, 0] = 0
        (activity,) = found.data
        assert activity.num_tokens == 20 * (LENGTH - 1)
        assert activity.frequency == pytest.approx((own[:, 1:] != 0).float().mean().item())
        assert activity.largest == pytest.approx(own.abs().max().item())
        peaks, places = own.abs().max(1)
        order = peaks.argsort(descending=True)[:4].tolist()
        assert [context.window for context in found.contexts] == order
        assert [context.position for context in found.contexts] == places[order].tolist()
        for context in found.contexts:
            start = context.position - context.peak
            end = min(LENGTH, context.position + TOKENS_AFTER + 1)
            assert context.peak == min(TOKENS_BEFORE, context.position)
            assert context.values == pytest.approx(own[context.window, start:end].tolist())
            text = ps.load_tokenizer(relu_checkpoint).decode(ids[context.window, start:end])
            assert "".join(context.tokens) == text


def test_data_sets_are_counted_apart_and_ranked_together(relu_checkpoint, texts):
    both = ps.inspect(relu_checkpoint, texts, layer=0, neurons=[3], top=40, **SHORT).neurons[0]
    code = {"code": texts["code"]}
    alone = ps.inspect(relu_checkpoint, code, layer=0, neurons=[3], top=40, **SHORT).neurons[0]

    assert both.data[1] == alone.data[0]
    assert [c for c in both.contexts if c.data == "code"] == list(alone.contexts)
    strengths = [abs(context.values[context.peak]) for context in both.contexts]
    assert strengths == sorted(strengths, reverse=True)


def test_what_a_neuron_writes_is_its_column_through_the_head(relu_checkpoint, texts):
    data = {"prose": texts["prose"]}
    (found,) = ps.inspect(relu_checkpoint, data, layer=1, neurons=[7], **SHORT).neurons
    model, tokenizer = ps.load(relu_checkpoint), ps.load_tokenizer(relu_checkpoint)
    logits = model.lm_head.weight @ model.model.layers[1].mlp.down_proj.weight[:, 7]
    best = logits.argmax()

    assert found.promotes[0].weight == pytest.approx(logits[best].item())
    assert found.promotes[0].token == tokenizer.decode([best])
    assert found.suppresses[0].weight == pytest.approx(logits.min().item())


def test_without_a_neuron_the_rarest_that_live_are_shown(relu_checkpoint, texts):
    record = ps.inspect(relu_checkpoint, {"prose": texts["prose"]}, layer=1, **SHORT)
    _, x1 = kept(relu_checkpoint, texts["prose"], 1)
    frequency = (x1[:, 1:] != 0).double().mean((0, 1))
    alive = sorted(share for share in frequency.tolist() if 0.001 <= share < 1)

    assert [n.data[0].frequency for n in record.neurons] == pytest.approx(alive[:5])


def test_a_dense_model_has_places_but_no_rare_neurons(checkpoint, texts):
    data = {"prose": texts["prose"]}
    record = ps.inspect(checkpoint, data, layer=0, neurons=[0], **SHORT)

    assert record.neurons[0].data[0].frequency == 1
    assert record.neurons[0].contexts
    with pytest.raises(UserError, match="as in a dense model"):
        ps.inspect(checkpoint, data, layer=0, **SHORT)


def test_no_more_is_kept_however_many_windows_pass(relu_checkpoint, texts, monkeypatch):
    largest = []
    push = sys.modules["heapq"].heappush

    def watched(heap, item):
        push(heap, item)
        largest.append(len(heap))

    monkeypatch.setattr("prosparse.measurement.firing.heapq.heappush", watched)
    ps.inspect(relu_checkpoint, {"prose": texts["prose"]}, layer=0, neurons=[3], top=2, **SHORT)
    assert max(largest) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": 2}, "layers 0 to 1; there is no --layer 2"),
        ({"layer": -1}, "no --layer -1"),
        ({"neurons": [48]}, "neurons 0 to 47; there is no --neuron 48"),
        ({"top": 0}, "--top must be at least 1; found 0"),
        ({"context_length": 1}, "--context-length must be at least 2"),
        ({"tokens": 3}, "at least one window of 32 tokens"),
        ({"data": {}}, "at least one --data"),
    ],
)
def test_mistakes_are_sentences(relu_checkpoint, texts, changes, words):
    options = {"data": {"prose": texts["prose"]}, "layer": 0, "neurons": [1], **SHORT, **changes}
    with pytest.raises(UserError, match=words):
        ps.inspect(relu_checkpoint, options.pop("data"), **options)


def test_pieces_together_are_the_text(relu_checkpoint):
    tokenizer = ps.load_tokenizer(relu_checkpoint)  # of bytes: an é is two tokens
    text = "a é – b"
    ids = tokenizer(text)["input_ids"]
    found = pieces(tokenizer, ids)

    assert len(found) == len(ids)
    assert "".join(found).replace("\ufffd", "") == text
