# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from prosparse.model.ffn import ffns
from prosparse.model.tap import tap
from tests.model.tiny import D_FF, tiny_model, tiny_tokens


@pytest.fixture
def model():
    return tiny_model("llama", hidden_act="relu")


def num_hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def test_observes_every_layer_at_every_pass(model):
    seen = []
    with tap(ffns(model), lambda layer, x_1: seen.append((layer, tuple(x_1.shape)))):
        model(tiny_tokens(num_tokens=5))
        model(tiny_tokens(num_tokens=7))
    assert seen == [(layer, (2, length, D_FF)) for length in (5, 7) for layer in (0, 1)]


def test_observes_what_down_receives(model):
    ffn = ffns(model)[1]
    received = []
    ffn.down.register_forward_pre_hook(lambda _, args: received.append(args[0]))
    seen = {}
    with tap([ffn], seen.__setitem__):
        model(tiny_tokens())
    assert seen[1] is received[0]


def test_gradients_flow_through_what_is_observed(model):
    norms = []
    with tap(ffns(model), lambda _, x_1: norms.append(x_1.abs().sum())):
        model(tiny_tokens())
    sum(norms).backward()
    for ffn in ffns(model):
        assert ffn.module.gate_proj.weight.grad.abs().sum() > 0
    assert model.lm_head.weight.grad is None


def test_outputs_are_untouched_and_hooks_come_off(model):
    before = model(tiny_tokens()).logits
    with tap(ffns(model), lambda *_: None):
        assert num_hooks(model) == 2
        assert torch.equal(model(tiny_tokens()).logits, before)
    assert num_hooks(model) == 0


def test_hooks_come_off_after_an_error(model):
    def fail(layer, x_1):
        raise KeyError("observer")

    with pytest.raises(KeyError, match="observer"), tap(ffns(model), fail):
        model(tiny_tokens())
    assert num_hooks(model) == 0


def test_taps_nest(model):
    counts = {"outer": 0, "inner": 0}

    def count(who):
        def observe(layer, x_1):
            counts[who] += 1

        return observe

    with tap(ffns(model), count("outer")):
        with tap(ffns(model), count("inner")):
            model(tiny_tokens())
        model(tiny_tokens())
    assert counts == {"outer": 4, "inner": 2}


def test_no_ffns_are_refused(model):
    with pytest.raises(ValueError, match="at least one FFN"), tap([], print):
        model(tiny_tokens())


def test_a_layer_that_never_ran_is_an_error(model):
    everything = ffns(model)
    del model.model.layers[1]
    with (
        pytest.raises(RuntimeError, match=r"never ran .*model\.layers\.1\.mlp"),
        tap(everything, lambda *_: None),
    ):
        model(tiny_tokens(), use_cache=False)
    assert num_hooks(model) == 0


def test_a_model_that_never_ran_is_no_error(model):
    with tap(ffns(model), lambda *_: None):
        pass


def test_compiled_model_is_observed_without_recompiling(model):
    torch._dynamo.reset()
    sums = torch.zeros(2)

    def observe(layer, x_1):
        sums[layer] += x_1.abs().sum()

    compiled = torch.compile(model, backend="eager")
    tokens = tiny_tokens()
    with torch.no_grad(), tap(ffns(model), observe):
        model(tokens)
        once = sums.clone()
        compiled(tokens)
        with torch._dynamo.config.patch(error_on_recompile=True):
            compiled(tokens)
    assert once.min() > 0
    assert torch.equal(sums, once + once + once)
