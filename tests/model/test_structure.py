# SPDX-License-Identifier: Apache-2.0
"""Finding the FFN without the table: all known families, a few toys, and what must be refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import CausalLMOutput

from prosparse.errors import UserError
from prosparse.model.families import FAMILIES, Family
from prosparse.model.ffn import ffns
from prosparse.model.relufy import relufy_in_place
from prosparse.model.structure import find_family
from prosparse.model.tap import tap
from prosparse.records.sparsity import Activation
from tests.model.tiny import tiny_model, tiny_tokens


class ToyConfig(PreTrainedConfig):
    model_type = "toy"

    def __init__(self, ffn: str = "GatedFFN", hidden_act: str = "silu", **kwargs):
        self.ffn = ffn
        self.hidden_act = hidden_act
        self.hidden_size = 16
        self.vocab_size = 64
        super().__init__(**kwargs)


class GatedFFN(nn.Module):
    """Named the way that Llama's own code does: w1 is gate, w3 is up."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.w3 = nn.Linear(16, 24)
        self.w2 = nn.Linear(24, 16)
        self.w1 = nn.Linear(16, 24)
        self.nonlinearity = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.w3(x) * self.nonlinearity(self.w1(x)))


class SquareFFN(GatedFFN):
    """Three square matrices: shapes say nothing at all."""

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.w1, self.w2, self.w3 = (nn.Linear(16, 16, bias=False) for _ in range(3))


class UpFirstFFN(nn.Module):
    """Fused the other way round than phi3."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.both = nn.Linear(16, 48)
        self.out = nn.Linear(24, 16)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.both(x).chunk(2, dim=-1)
        return self.out(self.act(gate) * up)


class ShiftedFFN(GatedFFN):
    """Up reads the token before: the product is right, the input is not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.w3(x.roll(1, dims=1)) * self.nonlinearity(self.w1(x)))


class NormedFFN(nn.Module):
    """A norm where the activation should be: low-rank projections look like this."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.a = nn.Linear(16, 24)
        self.norm = nn.LayerNorm(24)
        self.b = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


class DroppedFFN(nn.Module):
    """A dropout where the activation should be."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.a = nn.Linear(16, 24)
        self.dropout = nn.Dropout(0.5)
        self.b = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.dropout(self.a(x)))


class TwinFFN(nn.Module):
    """Two FFNs in one layer."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.left = GatedFFN(config)
        self.right = GatedFFN(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class FailingFFN(GatedFFN):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("only on Tuesdays")


class RegularizedFFN(GatedFFN):
    """Exact in eval mode alone."""

    def forward(self, x: Tensor) -> Tensor:
        x_1 = self.w3(x) * self.nonlinearity(self.w1(x))
        return self.w2(nn.functional.dropout(x_1, 0.5, self.training))


class HardCodedFFN(GatedFFN):
    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.nonlinearity = nn.GELU()


KINDS = [
    GatedFFN,
    SquareFFN,
    UpFirstFFN,
    ShiftedFFN,
    NormedFFN,
    DroppedFFN,
    TwinFFN,
    FailingFFN,
    RegularizedFFN,
    HardCodedFFN,
]


class ToyLayer(nn.Module):
    def __init__(self, config: ToyConfig):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.ffn = {kind.__name__: kind for kind in KINDS}[config.ffn](config)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.norm(x))


class ToyForCausalLM(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(64, 16)
        self.stack = nn.ModuleList(ToyLayer(config) for _ in range(3))
        self.lm_head = nn.Linear(16, 64)
        self.post_init()

    def forward(self, input_ids: Tensor) -> CausalLMOutput:
        x = self.embed_tokens(input_ids)
        for layer in self.stack:
            x = layer(x)
        return CausalLMOutput(logits=self.lm_head(x))


def toy(ffn: str = "GatedFFN", **config) -> ToyForCausalLM:
    torch.manual_seed(0)
    model = ToyForCausalLM(ToyConfig(ffn, **config)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


TOY_FAMILY = Family("stack", "ffn", "w1", "w3", "w2", "nonlinearity", "hidden_act")


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_known_family_is_found_without_the_table(model_type):
    assert find_family(tiny_model(model_type)) == FAMILIES[model_type]


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2"])
def test_found_in_bfloat16(model_type):
    assert find_family(tiny_model(model_type).bfloat16()) == FAMILIES[model_type]


@pytest.mark.parametrize("ffn", ["GatedFFN", "SquareFFN"])
@pytest.mark.parametrize("hidden_act", ["silu", "relu", "gelu_new"])
def test_gate_and_up_are_told_apart_by_what_they_do(ffn, hidden_act):
    assert find_family(toy(ffn, hidden_act=hidden_act)) == TOY_FAMILY


def test_unknown_model_goes_the_whole_way():
    model = toy()
    found = ffns(model)
    assert [ffn.name for ffn in found] == ["stack.0.ffn", "stack.1.ffn", "stack.2.ffn"]
    relufy_in_place(model, Activation("relu"))
    assert model.config.hidden_act == "relu"
    seen = {}
    with tap(found, seen.__setitem__):
        model(tiny_tokens() % 64)
    x = model.stack[0].norm(model.embed_tokens(tiny_tokens() % 64))
    ffn = model.stack[0].ffn
    assert_close(seen[0], torch.relu(ffn.w1(x)) * ffn.w3(x))


def test_a_row_of_the_table_makes_a_model_known(monkeypatch):
    model = toy("FailingFFN")
    monkeypatch.setitem(FAMILIES, "toy", TOY_FAMILY)
    assert ffns(model)[2].module is model.stack[2].ffn


def test_activation_that_the_config_does_not_name_has_no_config_key():
    assert find_family(toy("HardCodedFFN")).config_key is None


def test_a_model_in_training_is_understood():
    assert find_family(toy("RegularizedFFN").train()) == TOY_FAMILY


def test_probing_leaves_no_trace():
    model = toy().train()
    model.stack[1].eval()
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    find_family(model)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("ffn", "found"),
    [
        ("UpFirstFFN", r"0 \(modules that own two or more projections: stack\.0\.ffn\)"),
        ("ShiftedFFN", r"0 \(modules"),
        ("NormedFFN", r"0 \(modules"),
        ("DroppedFFN", r"0 \(modules"),
        ("TwinFFN", r"2 \(modules .*: stack\.0\.ffn\.left, stack\.0\.ffn\.right\)"),
        ("FailingFFN", r"does not run on token ids \(RuntimeError: only on Tuesdays\)"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_way_out(ffn, found):
    row = r'prosparse/model/families\.py: FAMILIES\["toy"\] = Family\('
    model = toy(ffn)
    with pytest.raises(UserError, match=f"'toy' is not a known.*found .*{found}.*{row}"):
        ffns(model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model_type", "fields", "sentence"),
    [
        pytest.param(
            "mixtral",
            {"num_local_experts": 2},
            r"'mixtral' model is a mixture of experts \(model\.layers\.\*\.experts\)",
            id="experts",
        ),
        pytest.param(
            "hrm_text",
            {"head_dim": 8},
            r"spread over model\.L_module\.layers, model\.H_module\.layers",
            id="two stacks",
        ),
        pytest.param(
            "qwen3_5_text",
            {},
            r"'hidden_act' names not only .* but also sets model\.layers\.0\.linear_attn",
            id="activation shared with attention",
        ),
        pytest.param("bitnet", {}, "'bitnet' is not a known", id="norm before down"),
        pytest.param("lfm2", {}, "'lfm2' is not a known", id="activation is a function"),
    ],
)
def test_models_of_transformers_that_do_not_fit_are_refused(model_type, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        ffns(tiny_model(model_type, **fields))
