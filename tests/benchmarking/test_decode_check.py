# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses

import pytest
import torch

from prosparse.benchmarking import decode_check as module
from prosparse.benchmarking.decode_check import cached_logits, check_tokens, dense_decode
from tests.conftest import tiny_llama

PROMPT = torch.tensor([[5, 9, 30, 2]])


@pytest.fixture
def model():
    return tiny_llama(hidden_act="relu")


def in_one_pass(model, tokens):
    ids = torch.cat([PROMPT, torch.tensor([tokens[:-1]])], dim=1)
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[0, PROMPT.shape[1] - 1 :].float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_bound_is_twice_the_rounding_of_the_dense_model(model, dtype):
    model = model.to(dtype)
    dense = dense_decode(model, PROMPT, 8)
    exact = in_one_pass(copy.deepcopy(model).float(), dense.tokens)
    cached = (dense.logits - exact).abs().max()
    at_once = (in_one_pass(model, dense.tokens) - exact).abs().max()
    unit = torch.finfo(dtype).eps * dense.logits.abs().max()
    assert dense.bound == pytest.approx(2 * float(max(cached, at_once, unit)))
    assert "computed in float32" in dense.bound_method


def test_a_float32_model_is_held_against_float64(model):
    dense = dense_decode(model, PROMPT, 8)
    size = float(dense.logits.abs().max())
    assert 2 * torch.finfo(torch.float32).eps * size <= dense.bound < 1e-5 * size
    assert "computed in float64" in dense.bound_method


def test_without_higher_precision_the_two_ways_are_compared(model, monkeypatch):
    def refuse(dtype):
        raise RuntimeError("no such kernel.\nand more")

    monkeypatch.setattr(module, "ComputesIn", refuse)
    model = model.bfloat16()
    dense = dense_decode(model, PROMPT, 8)
    difference = float((dense.logits - in_one_pass(model, dense.tokens)).abs().max())
    unit = torch.finfo(torch.bfloat16).eps * float(dense.logits.abs().max())
    assert dense.bound == pytest.approx(2 * max(difference, unit))
    assert dense.bound_method.endswith("in float32 failed: RuntimeError: no such kernel.")


def test_a_text_is_followed_whatever_the_model_prefers(model):
    text = [3, 200, 17, 45]
    found = cached_logits(model, PROMPT, 4, text)
    torch.testing.assert_close(found, in_one_pass(model, text))
    greedy = dense_decode(model, PROMPT, 4)
    assert torch.equal(cached_logits(model, PROMPT, 4, greedy.tokens), greedy.logits)
    assert greedy.logits.argmax(dim=1).tolist() == greedy.tokens


def test_every_token_is_judged_on_its_own_text(model):
    dense = dense_decode(model, PROMPT, 6)
    equal = check_tokens(model, PROMPT, dense.tokens, dense)
    assert (equal.first_difference, equal.margin, equal.is_wrong) == (None, 0.0, False)

    other = dense.tokens[2] + 1
    prefix = torch.cat([PROMPT, torch.tensor([[*dense.tokens[:2], other]])], dim=1)
    rest = dense_decode(model, prefix, 3).tokens  # right from there on
    check = check_tokens(model, PROMPT, [*dense.tokens[:2], other, *rest], dense)
    logits = model(input_ids=prefix[:, :-1]).logits[0, -1].detach()
    assert check.first_difference == 2
    assert check.margin == pytest.approx(float(logits.max() - logits[other]), rel=1e-4)
    assert check.is_wrong

    late = check_tokens(model, PROMPT, [*dense.tokens[:-1], dense.tokens[-1] + 1], dense)
    assert (late.first_difference, late.is_wrong) == (5, True)
    tie = dataclasses.replace(check, bound=check.margin)
    assert not tie.is_wrong
