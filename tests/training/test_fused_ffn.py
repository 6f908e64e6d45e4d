# SPDX-License-Identifier: Apache-2.0
"""Which FFNs are trained with the fused operator, and that they are the same FFNs."""

import contextlib
import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from prosparse.kernels import backend
from prosparse.kernels.backend import use_backend
from prosparse.model.activation import make_activation
from prosparse.model.ffn import ffns
from prosparse.model.relufy import relufy_in_place
from prosparse.training import fused_ffn
from prosparse.training.fused_ffn import PATH, is_fusible
from prosparse.training.regularizer import SparsityPenalty
from tests.model.tiny import tiny_model, tiny_tokens

CPU = torch.device("cpu")
ACTIVATIONS = [
    make_activation("relu"),
    make_activation("fatrelu", threshold=0.1),
    make_activation("shifted_relu", bias=0.125),
]


def relu_model(family="llama", activation=ACTIVATIONS[0], **overrides):
    model = tiny_model(family, **overrides)
    relufy_in_place(model, activation)
    return model.train()


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The tokens of each call of the fused operator."""
    seen = []

    def counted(gate_pre, *args, **options):
        seen.append(len(gate_pre))
        return reglu(gate_pre, *args, **options)

    reglu = fused_ffn.reglu
    monkeypatch.setattr(fused_ffn, "reglu", counted)
    return seen


def way(name):
    return use_backend("reference") if name == "fused" else contextlib.nullcontext()


def step(model, name, mask=None, run=None):
    """Return the loss, l1 by layer, counts and gradients of one pass, trained this way."""
    model.zero_grad()
    torch.manual_seed(0)
    penalty = SparsityPenalty(ffns(model), CPU)
    with way(name), penalty.attached():
        with penalty.collect(mask):
            tokens = tiny_tokens()
            forward = model if run is None else run
            loss = forward(tokens, attention_mask=mask, labels=tokens).loss
        seen = penalty.take()
        (loss + 1e-3 * sum(seen.l1_L)).backward()
    return loss, *seen.l1_L, seen.active_L, *(p.grad.clone() for p in model.parameters())


def assert_close(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.invariant
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_a_step_is_that_of_the_hooks(family, activation, calls):
    model = relu_model(family, activation)
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, :4] = 0
    expected = step(model, "hooks", mask)
    assert not calls
    assert_close(step(model, "fused", mask), expected)
    assert calls == [24, 24]


@pytest.mark.invariant
def test_biases_and_bfloat16_weights_take_part(calls):
    model = relu_model(mlp_bias=True).bfloat16()
    expected = step(model, "hooks")
    found = step(model, "fused")
    assert calls
    assert torch.equal(found[0], expected[0])  # x_1 is the same to the last bit
    assert torch.equal(found[3], expected[3])
    for mine, theirs in zip(found[4:], expected[4:], strict=True):
        assert (mine - theirs).norm() <= 0.02 * theirs.norm()


@pytest.mark.invariant
def test_autocast_takes_part(calls):
    model = relu_model()
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = step(model, "hooks"), step(model, "fused")
    assert calls
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[3], expected[3])


class Adapted(nn.Module):
    """A projection with something beside it, whose output is kept for its backward pass."""

    def __init__(self, base):
        super().__init__()
        self.base, self.more = base, nn.Linear(32, 56)

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        return self.base(x) + self.more(x).tanh()


@pytest.mark.invariant
def test_adapters_around_the_projections_take_part(calls):
    model = relu_model()
    for ffn in ffns(model):
        ffn.module.gate_proj = Adapted(ffn.module.gate_proj)
    expected = step(model, "hooks")
    assert_close(step(model, "fused"), expected)
    assert calls


@pytest.mark.invariant
def test_layers_that_are_not_fusible_are_watched_by_hooks(calls):
    model = relu_model()
    expected = step(model, "hooks")
    ffns(model)[0].activation.register_forward_hook(lambda *_: None)
    assert_close(step(model, "fused"), expected)
    assert calls == [24]
    plain = relu_model("opt")
    assert_close(step(plain, "fused"), step(plain, "hooks"))
    assert calls == [24]


@pytest.mark.invariant
@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_compiled_into_one_graph_it_is_the_same(compiler, calls):
    model = relu_model()
    expected = step(model, "hooks")
    torch.compiler.reset()
    counters.clear()
    found = step(model, "fused", run=torch.compile(model, backend=compiler, fullgraph=True))
    assert_close(found, expected)
    assert calls
    assert counters["stats"]["unique_graphs"] == 1


def test_no_more_is_kept_for_the_backward_pass_than_of_a_plain_swiglu():
    def kept(model, name) -> int:
        """Bytes that the FFN of layer 0 keeps, without weights, each memory counted once."""
        ffn, sizes = ffns(model)[0], {}
        own = {p.data_ptr() for p in model.parameters()}

        def pack(tensor):
            if tensor.data_ptr() not in own:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = torch.randn(2, 12, 32, requires_grad=True)
        penalty = SparsityPenalty([ffn], CPU)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with way(name), penalty.attached(), penalty.collect(None), hooks:
            ffn.module(x)
        return sum(sizes.values())

    x, pre_activation = 24 * 32 * 4, 24 * 56 * 4
    assert kept(relu_model(), "fused") == x + 3 * pre_activation  # gate, up and x_1
    assert kept(tiny_model("llama").train(), "hooks") >= x + 3 * pre_activation


def test_gradients_take_the_place_of_the_pre_activations(monkeypatch):
    seen = []

    def noted(ffn, x):
        seen.extend(tensors := pre_activations(ffn, x))
        return tensors

    pre_activations = fused_ffn.pre_activations
    monkeypatch.setattr(fused_ffn, "pre_activations", noted)
    model = relu_model()
    with way("fused"), SparsityPenalty(ffns(model), CPU).attached():
        loss = model(tiny_tokens(), labels=tiny_tokens()).loss
        before = [tensor.detach().clone() for tensor in seen]
        loss.backward()
    assert len(seen) == 4
    for tensor, values in zip(seen, before, strict=True):
        assert not torch.equal(tensor, values)


def test_inside_and_afterwards_it_is_the_same_checkpoint(relu_checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(relu_checkpoint).train()
    before = copy.deepcopy(model.state_dict())
    classes = [type(module) for module in model.modules()]
    with use_backend("reference"), SparsityPenalty(ffns(model), CPU).attached():
        assert type(ffns(model)[0].module).__name__ == "FusedLlamaMLP"
        assert list(model.state_dict()) == list(before)
        model.save_pretrained(tmp_path / "saved")
    assert [type(module) for module in model.modules()] == classes
    assert not any(PATH in vars(module) for module in model.modules())
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    saved, stock = (
        load_file(f / "model.safetensors") for f in (tmp_path / "saved", relu_checkpoint)
    )
    assert saved.keys() == stock.keys()
    assert all(torch.equal(saved[name], stock[name]) for name in stock)


def test_it_comes_off_when_training_fails():
    model = relu_model()

    def fail() -> None:
        with use_backend("reference"), SparsityPenalty(ffns(model), CPU).attached():
            assert type(ffns(model)[0].module).__name__ == "FusedLlamaMLP"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert type(ffns(model)[0].module).__name__ == "LlamaMLP"


def test_a_wrapper_s_class_stays_and_the_way_is_the_model_s_own(calls):
    model = relu_model()
    module = ffns(model)[0].module
    with use_backend("reference"), SparsityPenalty(ffns(model), CPU).attached():
        module.__class__ = wrapped = type("Wrapped", (type(module),), {})
    assert type(module) is wrapped
    module(torch.randn(1, 3, 32))
    assert not calls


def test_a_pass_without_gradients_is_the_model_s_own(calls):
    model = relu_model()
    with use_backend("reference"), SparsityPenalty(ffns(model), CPU).attached(), torch.no_grad():
        model(tiny_tokens())
    assert not calls


@pytest.fixture
def forgets_the_fastest():
    yield
    backend._fastest.cache_clear()


def test_it_runs_where_a_kernel_does_or_where_it_is_asked_for(monkeypatch, forgets_the_fastest):
    def only(*names):
        backend._fastest.cache_clear()
        monkeypatch.setattr(backend, "why_not", lambda name, _: None if name in names else "no")

    ffn = ffns(relu_model())[0]
    assert not is_fusible(ffn, CPU)
    with use_backend("reference"):
        assert is_fusible(ffn, CPU)
    only("triton", "reference")
    assert is_fusible(ffn, torch.device("cuda"))
    only("cuda", "triton", "reference")  # the first has no such operator: Triton's is taken
    assert backend.training_backend(torch.device("cuda")) == "triton"
    only("cuda", "reference")
    assert not is_fusible(ffn, torch.device("cuda"))


class DropsOut(nn.Module):
    """An FFN with more in it than its parts; only training shows."""

    def __init__(self, mlp):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn, self.dropout = mlp.act_fn, nn.Dropout(0.5)

    def forward(self, x):
        return self.down_proj(self.dropout(self.act_fn(self.gate_proj(x)) * self.up_proj(x)))


def test_what_the_kernel_does_not_take_is_left_alone():
    def dropping():
        model = relu_model()
        model.model.layers[0].mlp = DropsOut(model.model.layers[0].mlp)
        return model.eval()

    def hooked():
        model = relu_model()
        model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: None)
        return model

    for model in (
        tiny_model("llama"),
        relu_model("gpt2"),
        relu_model().double(),
        relu_model().to("meta"),
        dropping(),
        hooked(),
    ):
        modes = [module.training for module in model.modules()]
        with use_backend("reference"):
            assert not is_fusible(ffns(model)[0], CPU)
        assert modes == [module.training for module in model.modules()]
