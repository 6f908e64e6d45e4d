# SPDX-License-Identifier: Apache-2.0
import torch

from prosparse.evaluation.zeros import ZeroMeter, real_tokens
from prosparse.measurement.meter import SparsityMeter
from prosparse.model.ffn import ffns
from tests.conftest import tiny_llama

END = 9


def test_alone_everything_is_real():
    assert real_tokens(torch.tensor([[0, 5, 0]]), None, END).all()


def test_padding_on_the_right_is_not():
    ids = torch.tensor([[3, 0, 4, 0, 0], [3, 4, 5, 6, 7]])
    assert real_tokens(ids, None, END).tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_padding_on_the_left_is_not():
    ids, mask = torch.tensor([[9, 9, 3], [9, 4, 5]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    assert real_tokens(ids, mask, END).tolist() == [[False, False, True], [True] * 3]


def test_a_row_that_has_ended_is_not():
    ids, mask = torch.tensor([[9], [4]]), torch.ones(2, 8, dtype=torch.long)
    assert real_tokens(ids, mask, END).tolist() == [[False], [True]]


def test_counts_are_those_of_measure():
    model = tiny_llama(hidden_act="relu")
    ids = torch.randint(1, 257, (1, 20), generator=torch.Generator().manual_seed(0))
    plain, meter = SparsityMeter(ffns(model), model.device), ZeroMeter(model, None)
    with torch.no_grad(), plain.watch(), meter.watch():
        model(ids)
    active_L, num_tokens = meter.take()
    assert num_tokens == 20
    assert tuple(1 - n / (20 * meter.d_ff) for n in active_L) == plain.layer_sparsity()
    assert meter.take() == ([0, 0], 0)


def test_a_padded_batch_counts_as_its_items_alone():
    model = tiny_llama(hidden_act="relu")
    long, short = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8]])
    batch = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    meter = ZeroMeter(model, None)
    with torch.no_grad(), meter.watch():
        model(long), model(short)
    alone = meter.take()
    with torch.no_grad(), meter.watch():
        model(batch)
    assert meter.take() == alone


def test_a_generated_batch_counts_what_it_wrote():
    model = tiny_llama(hidden_act="relu")
    meter = ZeroMeter(model, 0)
    prompts = torch.tensor([[0, 0, 3, 4], [5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with meter.watch():
        whole = model.generate(
            prompts, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0
        )
    new = whole[:, 4:]
    fed = int((new[:, :-1] != 0).sum())  # the last one is never fed
    assert meter.take()[1] == 6 + fed


def test_no_hook_stays():
    model = tiny_llama(hidden_act="relu")
    with ZeroMeter(model, None).watch():
        model(torch.tensor([[1, 2]]))
    assert not model._forward_pre_hooks
    assert not any(ffn.down._forward_pre_hooks for ffn in ffns(model))
