# SPDX-License-Identifier: Apache-2.0
"""The operators as PyTorch knows them, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from prosparse.kernels import ops, reference
from prosparse.kernels.backend import choose_backend, use_backend, why_not
from prosparse.kernels.screen import make_screen
from prosparse.model.activation import FATReLU
from tests.kernels.cases import DTYPES, random_weights

D, F = 64, 96


@pytest.fixture
def weights():
    return random_weights(D, F, biases=True)


def flat(weights):
    return (
        weights.gate_proj, weights.up_proj, weights.down_projT, None, None, None,
        weights.gate_bias, weights.up_bias, weights.down_bias, None,
    )  # fmt: skip


def test_opcheck(weights):
    x = torch.randn(3, D)
    screen = make_screen(weights.gate_proj)
    library = torch.ops.prosparse
    torch.library.opcheck(library.sparse_up, (torch.randn(3, F), x, weights.up_proj, 0.1))
    torch.library.opcheck(library.sparse_down, (torch.randn(3, F).relu(), weights.down_projT))
    torch.library.opcheck(library.sparse_ffn, (x, *flat(weights), 0.1, 0.0, False, True, True))
    rest = flat(weights)[4:]
    tensors = (weights.gate_proj, weights.up_proj, weights.down_projT)
    tables = (screen.values, screen.scales, screen.bound)
    torch.library.opcheck(
        library.screened_ffn, (x, *tensors, *tables, *rest, 0.1, False, True, False)
    )


def test_compiles_into_one_graph(weights):
    screen = make_screen(weights.gate_proj)

    def model(x):
        return ops.sparse_ffn(x + 1, weights) * ops.screened_ffn(x, weights, screen)

    x = torch.randn(2, D)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.0, 0.017, 0.3])
def test_the_reference_has_the_zeros_of_the_models_own_activation(t, dtype):
    pre = torch.randn(4, 200).to(dtype)
    pre[0, :3] = torch.tensor([t, -t, torch.nan]).to(dtype)
    expected = FATReLU(t)(pre)
    assert torch.equal(reference.activate(pre, t).nan_to_num(9), expected.nan_to_num(9))


def test_the_whole_is_the_dense_relu_ffn():
    weights = random_weights(D, F, torch.float64)
    x = torch.randn(5, D)
    gate, up, down = (w.double() for w in (weights.gate_proj, weights.up_proj, weights.down_projT))
    dense = ((x.double() @ gate.T).relu() * (x.double() @ up.T)) @ down
    single = random_weights(D, F)
    assert (ops.sparse_ffn(x, single) - dense).norm() <= 1e-6 * dense.norm()
    pre = x @ single.gate_proj.T
    y = ops.sparse_down(ops.sparse_up(pre, x, single.up_proj), single.down_projT)
    assert (y - dense).norm() <= 1e-6 * dense.norm()


def test_weights_of_inactive_neurons_never_reach_the_output(weights):
    weights = replace(weights, threshold=0.5)
    x = torch.randn(1, D)
    y = ops.sparse_ffn(x, weights)
    inactive = reference.gate_up(x, weights)[0] == 0
    weights.up_proj[inactive] = torch.nan
    weights.down_projT[inactive] = torch.inf
    assert torch.equal(ops.sparse_ffn(x, weights), y)


def test_a_screen_changes_nothing(weights):
    x = torch.randn(3, D)
    screen = make_screen(weights.gate_proj)
    assert torch.equal(ops.screened_ffn(x, weights, screen), ops.sparse_ffn(x, weights))
    with pytest.raises(ValueError, match="no shift"):
        ops.screened_ffn(x, replace(weights, shift=0.1), screen)


def test_x_may_be_any_view(weights):
    x = torch.randn(D, 3)
    assert torch.equal(ops.sparse_ffn(x.T, weights), ops.sparse_ffn(x.T.contiguous(), weights))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"up_proj": torch.randn(F, D + 1)}, r"up_proj must be \[96, 64\]"),
        ({"up_proj": torch.randn(F, D).half()}, "float16"),
        ({"down_projT": torch.randn(D, F).T}, "contiguous: one neuron, one row"),
        ({"gate_bias": torch.randn(F + 1)}, r"gate_bias must be \[96\]"),
        ({"down_bias": torch.randn(D).double()}, "down_bias must be"),
        (
            {"up_proj": torch.zeros(F, D, dtype=torch.int8), "up_scales": torch.ones(F, 2)},
            "float16",
        ),
    ],
    ids=["width", "dtype", "layout", "bias", "bias-dtype", "scales"],
)
def test_weights_that_do_not_go_together_are_refused(weights, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        ops.sparse_ffn(torch.randn(1, D), replace(weights, **change))


@pytest.mark.parametrize("tokens", [0, 17])
def test_only_so_many_tokens(weights, tokens):
    with pytest.raises(ValueError, match=f"1 to 16 tokens; found {tokens}"):
        ops.sparse_ffn(torch.randn(tokens, D), weights)
    with pytest.raises(ValueError, match="1 to 16 tokens"):
        ops.sparse_down(torch.randn(tokens, F), weights.down_projT)


def test_other_arguments_that_do_not_go_together(weights):
    x = torch.randn(2, D)
    with pytest.raises(ValueError, match=r"x must be \[T, D\]"):
        ops.sparse_ffn(x[0], weights)
    with pytest.raises(ValueError, match="float32, bfloat16 or float16"):
        ops.sparse_ffn(x.double(), weights)
    with pytest.raises(ValueError, match="residual must be"):
        ops.sparse_ffn(x, weights, x[:1])
    with pytest.raises(ValueError, match="gate_pre must be"):
        ops.sparse_up(torch.randn(2, F - 1), x, weights.up_proj)
    with pytest.raises(ValueError, match=r"x1 must be \[T, F\]"):
        ops.sparse_down(torch.randn(2, F - 1), weights.down_projT)


def test_on_a_cpu_cpp_or_the_reference_runs_and_says_why():
    cpu = torch.device("cpu")
    assert choose_backend(cpu) == ("cpu" if why_not("cpu", cpu) is None else "reference")
    assert why_not("reference", cpu) is None
    for backend in ("cuda", "triton"):
        assert why_not(backend, cpu) == (
            f"The {backend} backend needs an NVIDIA GPU; these tensors are on 'cpu'."
        )
    with use_backend("triton"):
        with use_backend("reference"):
            assert choose_backend(cpu) == "reference"
        assert choose_backend(cpu) == "triton"
    with (
        pytest.raises(ValueError, match="one of cuda, triton, cpu, reference"),
        use_backend("rocm"),
    ):
        pass
