# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from transformers import AutoModelForCausalLM

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.training.regularizer import SparsityPenalty, kappa

CPU = torch.device("cpu")


@pytest.fixture
def model(relu_checkpoint):
    return AutoModelForCausalLM.from_pretrained(relu_checkpoint).train()


@pytest.fixture
def ids_BS() -> torch.Tensor:
    return torch.randint(1, 257, (3, 16), generator=torch.Generator().manual_seed(1))


def collected(model, ids_BS: torch.Tensor, mask_BS: torch.Tensor | None = None):
    penalty = SparsityPenalty(ffns(model), CPU)
    with penalty.attached(), penalty.collect(mask_BS):
        model(input_ids=ids_BS, attention_mask=mask_BS)
    return penalty.take()


def test_mean_normalization_weighs_the_mean_of_an_element():
    assert kappa("mean", 48, None) == 1 / 48


def test_summed_normalization_is_the_later_code_s_scale_for_one_micro_batch():
    # Their loss adds lambda * 1e-8 * (L1 summed over a micro-batch of 4 * 4096 tokens).
    assert kappa("summed", 48, 4 * 4096) == pytest.approx(1e-8 * 16384)


@pytest.mark.parametrize(
    ("normalization", "reference_tokens", "message"),
    [
        ("mean", 4096, "applies to 'normalization: summed' only"),
        ("summed", None, "needs reference_tokens.*found None"),
        ("summed", 0, "a whole number > 0.*found 0"),
        ("summed", -1, "found -1"),
    ],
)
def test_reference_tokens_go_with_summed_and_nothing_else(normalization, reference_tokens, message):
    with pytest.raises(UserError, match=message):
        kappa(normalization, 48, reference_tokens)


@pytest.mark.usefixtures("path")
def test_l1_and_counts_equal_those_computed_by_hand(model, ids_BS, intermediates):
    seen = collected(model, ids_BS)
    x1_L = intermediates(model, ids_BS)
    for l1, active, x1 in zip(seen.l1_L, seen.active_L, x1_L, strict=True):
        assert l1.item() == pytest.approx(x1.abs().sum().item(), rel=1e-5)
        assert active.item() == (x1 != 0).sum().item()
        assert 0 < active < x1.numel()


@pytest.mark.usefixtures("path")
def test_padding_is_never_counted(model, ids_BS, intermediates):
    mask_BS = torch.ones_like(ids_BS)
    mask_BS[0, 9:] = 0
    mask_BS[2, :5] = 0
    seen = collected(model, ids_BS, mask_BS)
    x1_L = [x1[mask_BS.bool()] for x1 in intermediates(model, ids_BS, mask_BS)]
    for l1, active, x1_TF in zip(seen.l1_L, seen.active_L, x1_L, strict=True):
        assert len(x1_TF) == 3 * 16 - 7 - 5
        assert l1.item() == pytest.approx(x1_TF.abs().sum().item(), rel=1e-5)
        assert active.item() == (x1_TF != 0).sum().item()


@pytest.mark.usefixtures("path")
def test_the_gradient_of_the_penalty_is_that_of_the_l1_norm(model, ids_BS, intermediates):
    parameters = dict(model.named_parameters())
    seen = collected(model, ids_BS)
    ours = torch.autograd.grad(sum(seen.l1_L), parameters.values(), materialize_grads=True)
    by_hand = torch.autograd.grad(
        sum(x1.abs().sum() for x1 in intermediates(model, ids_BS)),
        parameters.values(),
        materialize_grads=True,
    )
    for name, mine, expected in zip(parameters, ours, by_hand, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4, msg=name)
    up_proj = list(parameters).index("model.layers.1.mlp.up_proj.weight")
    down_proj = list(parameters).index("model.layers.1.mlp.down_proj.weight")
    assert ours[up_proj].norm() > 0
    assert ours[down_proj].norm() == 0  # comes after the last intermediate


@pytest.mark.usefixtures("path")
def test_an_evaluation_in_the_middle_of_training_is_not_collected(model, ids_BS):
    penalty = SparsityPenalty(ffns(model), CPU)
    with penalty.attached():
        with penalty.collect(None):
            model(input_ids=ids_BS)
            with torch.no_grad():
                model(input_ids=ids_BS[:1])
        seen = penalty.take()
    assert torch.equal(seen.active_L, collected(model, ids_BS).active_L)
    assert all(l1.requires_grad for l1 in seen.l1_L)


@pytest.mark.usefixtures("path")
def test_recomputation_is_not_collected(model, ids_BS):
    plain = collected(model, ids_BS)
    renamed = getattr(model, "activation_checkpointing_enable", None)  # since transformers 5.18
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
    penalty = SparsityPenalty(ffns(model), CPU)
    num_passes = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: num_passes.append(1))
    with penalty.attached():
        with penalty.collect(None):
            loss = model(input_ids=ids_BS, labels=ids_BS, use_cache=False).loss
        seen = penalty.take()
        (loss + sum(seen.l1_L)).backward()
        assert len(num_passes) == 2  # forward, and again in backward
        with pytest.raises(AssertionError, match="has not run"):  # nothing was collected since
            penalty.take()
    assert torch.equal(seen.active_L, plain.active_L)
    assert [l1.item() for l1 in seen.l1_L] == [l1.item() for l1 in plain.l1_L]


def test_hooks_come_off_when_training_fails(model):
    def fail() -> None:
        with SparsityPenalty(ffns(model), CPU).attached():
            assert all(ffn.down._forward_pre_hooks for ffn in ffns(model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(ffn.down._forward_pre_hooks for ffn in ffns(model))
