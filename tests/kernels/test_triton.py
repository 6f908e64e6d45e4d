# SPDX-License-Identifier: Apache-2.0
from dataclasses import fields, replace

import pytest
import torch

pytest.importorskip("triton")

from prosparse.kernels import reference, triton
from prosparse.kernels.ffn_weights import FFNWeights
from tests.kernels.cases import (
    CASES,
    DTYPES,
    check,
    exact_x1,
    exact_y,
    random_weights,
)

pytestmark = pytest.mark.usefixtures("triton_device", "poisoned_memory")


@pytest.fixture
def run(triton_device):
    """Call an operator on the device of the kernels; its result comes back to the CPU."""

    def moved(value):
        if isinstance(value, torch.Tensor):
            # `to` keeps the strides of a dense tensor only: the views of these tests stay views.
            return value if triton_device == "cpu" else _with_strides(value, triton_device)
        if isinstance(value, FFNWeights):
            return FFNWeights(*(moved(getattr(value, field.name)) for field in fields(value)))
        return value

    return lambda operator, *arguments: operator(*map(moved, arguments)).cpu()


def _with_strides(tensor, device):
    storage = torch.empty(0, dtype=tensor.dtype, device=device)
    storage.set_(tensor.untyped_storage().to(device=torch.device(device)))
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ffn_is_the_reference(case, dtype, run):
    case = {"T": 3, "D": 67, "F": 75} | case
    T = case.pop("T")
    weights = random_weights(dtype=dtype, **case)
    x = torch.randn(T, case["D"]).to(dtype)
    x1 = reference.gate_up(x, weights)
    exact = exact_x1(x, weights, x1 != 0)
    assert 0 < (x1 != 0).sum() < x1.numel()
    check(dtype, run(triton.gate_up, x, weights), x1, exact)
    y = reference.sparse_ffn(x, weights)
    check(dtype, run(triton.sparse_ffn, x, weights), y, exact_y(exact, weights))


@pytest.mark.parametrize("dtype", DTYPES)
def test_ffn_without_up_projection(dtype, run):
    weights = replace(random_weights(67, 75, dtype, biases=True), up_proj=None, up_bias=None)
    x = torch.randn(3, 67).to(dtype)
    x1 = reference.gate_up(x, weights)
    exact = exact_x1(x, weights, x1 != 0)
    check(dtype, run(triton.gate_up, x, weights), x1, exact)
    y = reference.sparse_ffn(x, weights)
    check(dtype, run(triton.sparse_ffn, x, weights), y, exact_y(exact, weights))


def test_a_matrix_may_be_quantized_and_the_others_not(run):
    four, eight, whole = (random_weights(96, 75, bits=bits) for bits in (4, 8, None))
    for mixed in (
        replace(whole, gate_proj=four.gate_proj, gate_scales=four.gate_scales),
        replace(eight, up_proj=whole.up_proj, up_scales=None),
        replace(four, down_projT=whole.down_projT, down_scales=None),
    ):
        x = torch.randn(3, 96)
        y = reference.sparse_ffn(x, mixed)
        check(x.dtype, run(triton.sparse_ffn, x, mixed), y, y)


@pytest.mark.parametrize("float32_output", [False, True], ids=["rounded", "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_is_added_before_the_only_rounding(dtype, float32_output, run):
    weights = random_weights(67, 75, dtype, biases=True)
    x, residual = torch.randn(2, 3, 67).to(dtype)
    y = reference.sparse_ffn(x, weights, residual, float32_output)
    found = run(triton.sparse_ffn, x, weights, residual, float32_output)
    exact = exact_x1(x, weights, reference.gate_up(x, weights) != 0)
    assert y.dtype == (torch.float32 if float32_output else dtype)
    check(dtype, found, y, exact_y(exact, weights, residual))


@pytest.mark.parametrize("num_active", [0, 1, 75], ids=["none", "one", "all"])
@pytest.mark.parametrize("T", [1, 3, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_operators_at_extreme_masks(dtype, T, num_active, run):
    weights = random_weights(67, 75, dtype)
    x = torch.randn(T, 67).to(dtype)
    gate_pre = torch.full((T, 75), -1.0, dtype=dtype)
    gate_pre[:, 37 : 37 + num_active] = 0.5
    gate_pre[:, : max(num_active - 38, 0)] = 0.25
    x1 = reference.sparse_up(gate_pre, x, weights.up_proj)
    exact = gate_pre.double().relu() * (x.double() @ weights.up_proj.double().T)
    found = run(triton.sparse_up, gate_pre, x, weights.up_proj)
    y = run(triton.sparse_down, x1, weights.down_projT)
    if num_active:
        check(dtype, found, x1, exact)
        check(
            dtype, y, reference.sparse_down(x1, weights.down_projT), exact_y(x1.double(), weights)
        )
    else:
        assert found.dtype == y.dtype == dtype
        assert torch.equal(found, torch.zeros_like(x1))
        assert torch.equal(y, torch.zeros_like(x))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # numpy, in the interpreter
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounds_to_nearest_even(dtype, run):
    # Halfway between two values, anything, and what overflows; all else is zero.
    torch.manual_seed(42)
    halfway = 1 + torch.arange(67) * torch.finfo(dtype).eps / 2
    largest = torch.full((67,), torch.finfo(dtype).max)
    residual = torch.stack([halfway, -halfway, torch.randn(67), largest, largest * 1.01, -largest])
    weights = FFNWeights(torch.ones(1, 67), None, torch.zeros(1, 67))
    x = torch.ones(6, 67, dtype=dtype)
    assert torch.equal(run(triton.sparse_ffn, x, weights, residual), residual.to(dtype))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.01, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gate_at_the_threshold_is_kept(dtype, threshold, run):
    cut, tiny = torch.tensor([threshold, torch.finfo(dtype).tiny], dtype=dtype)
    below, above = (
        torch.nextafter(cut, end) if threshold else end.sign() * tiny
        for end in torch.tensor([-torch.inf, torch.inf], dtype=dtype)
    )
    gate_pre = torch.stack([cut, below, above, -cut, 0 * cut])[None]
    expected = torch.where(gate_pre < cut, 0, gate_pre)
    one = torch.ones(1, 1, dtype=dtype)
    assert torch.equal(run(triton.sparse_up, gate_pre, one, one.expand(5, 1), threshold), expected)
    weights = FFNWeights(gate_pre.T.contiguous(), None, one.expand(5, 1), threshold=threshold)
    assert torch.equal(run(triton.gate_up, one, weights), expected)
    assert torch.equal(reference.gate_up(one, weights), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_is_subtracted_in_float32(dtype, run):
    # As torch does on a GPU; on a CPU it first rounds the shift to the dtype of the activations.
    torch.manual_seed(42)
    gate_pre = torch.randn(75).to(dtype)
    weights = FFNWeights(gate_pre[:, None], None, gate_pre[:, None], shift=0.1)
    found = run(triton.gate_up, torch.ones(1, 1, dtype=dtype), weights)
    assert torch.equal(found[0], (gate_pre.float() - 0.1).to(dtype).relu())


@pytest.mark.parametrize("case", [{}, {"bits": 8}, {"bits": 4}], ids=["whole", "int8", "int4"])
def test_weights_of_an_inactive_neuron_do_not_matter(case, run):
    weights = random_weights(96, 75, **case)
    x = torch.randn(3, 96)
    unused = (reference.gate_up(x, weights) == 0).all(dim=0)
    assert unused.any()
    expected = run(triton.sparse_ffn, x, weights)
    poisoned = ["up_scales", "down_scales"] if case else ["up_proj", "down_projT"]
    for name in poisoned:
        rows = getattr(weights, name).clone()
        rows[unused] = torch.nan
        weights = replace(weights, **{name: rows})
    assert torch.equal(run(triton.sparse_ffn, x, weights), expected)


def test_nan_is_active(run):
    weights = random_weights(67, 75)
    x = torch.randn(3, 67)
    x[1, 5] = torch.nan
    x1, y = run(triton.gate_up, x, weights), run(triton.sparse_ffn, x, weights)
    assert x1[1].isnan().all()
    assert y[1].isnan().all()
    torch.testing.assert_close(x1, reference.gate_up(x, weights), equal_nan=True)
    torch.testing.assert_close(y, reference.sparse_ffn(x, weights), equal_nan=True)
    gate_pre = torch.full((1, 75), -1.0)
    gate_pre[0, 7] = torch.nan
    x1 = run(triton.sparse_up, gate_pre, x[:1], weights.up_proj)
    assert x1.isnan().nonzero().tolist() == [[0, 7]]
    assert run(triton.sparse_down, x1, weights.down_projT).isnan().all()


@pytest.mark.parametrize("T", [1, 16])
def test_two_runs_are_bit_equal(T, run):
    weights = random_weights(67, 131, torch.bfloat16)
    x = torch.randn(T, 67).bfloat16()
    first, second = (run(triton.sparse_ffn, x, weights, None, True) for _ in range(2))
    assert torch.equal(first, second)


def test_views_are_read_with_their_strides(run):
    weights = random_weights(67, 75)
    fused = torch.cat([weights.gate_proj, weights.up_proj])
    x, residual = torch.randn(67, 6).T[::2], torch.randn(3, 134)[:, ::2]
    views = replace(weights, gate_proj=fused[:75], up_proj=fused[75:])
    views = replace(views, down_projT=weights.down_projT.T.contiguous().T)
    expected = run(triton.sparse_ffn, x.contiguous(), weights, residual.contiguous())
    assert torch.equal(run(triton.sparse_ffn, x, views, residual), expected)
    gate_pre, up = torch.randn(75, 3).T, weights.up_proj
    x1 = run(triton.sparse_up, gate_pre.contiguous(), x.contiguous(), up)
    assert torch.equal(run(triton.sparse_up, gate_pre, x, torch.cat([up, up], 1)[:, :67]), x1)
    y = run(triton.sparse_down, x1, weights.down_projT)
    assert torch.equal(run(triton.sparse_down, x1.T.contiguous().T, views.down_projT), y)
