# SPDX-License-Identifier: Apache-2.0
"""x_1, its L1 norm and its count: every backend against float64, and what autograd makes of them."""

import functools
import importlib
import importlib.util

import pytest
import torch
from torch.autograd import grad
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from prosparse.kernels.backend import use_backend
from prosparse.kernels.reglu import reglu
from prosparse.model.activation import FATReLU, ShiftedReLU
from tests.kernels.cases import DTYPES

ACTIVATIONS = {
    "relu": {},
    "fatrelu": {"threshold": 0.3},
    "fatrelu-0": {"threshold": 0.0},
    "shifted": {"shift": 0.125},
}
GRAD_L1 = 0.3


@pytest.fixture(params=["reference", "triton"])
def backend(request):
    """Run the operator with a backend; give the device that its tensors must be on."""
    device = "cpu"
    if request.param == "triton":
        pytest.importorskip("triton")
        device = request.getfixturevalue("triton_device")
        request.getfixturevalue("poisoned_memory")
    with use_backend(request.param):
        yield device


def inputs(dtype, device, T=5, F=37, seed=42):
    """Return pre-activations with exact zeros and ties, a gradient of x_1, and a mask."""
    torch.manual_seed(seed)
    gate_pre, up, grad_x1 = torch.randn(3, T, F).to(device, dtype)
    gate_pre[:, 0], up[:, 1] = 0.0, 0.0
    gate_pre[:, 2] = torch.tensor(0.3, dtype=dtype)
    gate_pre[:, 3] = 0.125
    return gate_pre, up, grad_x1, torch.arange(T, device=device) % 3 != 1


def module(threshold=None, shift=0.0):
    if shift:
        return ShiftedReLU(shift)
    return torch.relu if threshold is None else FATReLU(threshold)


def exact(gate_pre, up, grad_x1, mask_T, **activation):
    """Return x_1, l1, count and both gradients in float64, rounded nowhere but after the shift."""
    act = module(**activation)
    gate_pre, up = (t.double().requires_grad_() for t in (gate_pre, up))
    pre = gate_pre
    if "threshold" in activation:  # it is compared as the dtype has it
        act = FATReLU(torch.tensor(activation["threshold"], dtype=grad_x1.dtype).item())
    x1 = act(pre) * up
    real = x1 if mask_T is None else x1[mask_T]
    l1 = real.abs().sum()
    slopes = grad([x1, l1], [gate_pre, up], [grad_x1.double(), torch.tensor(GRAD_L1).to(l1)])
    return x1.detach(), l1.detach(), real.count_nonzero(), *slopes


def close(found, expected, dtype):
    """Rounded once to `dtype`, from float32."""
    eps = torch.finfo(dtype).eps
    rtol = 1e-6 if dtype == torch.float32 else 0.502 * eps
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), expected, rtol=rtol, atol=torch.finfo(dtype).smallest_normal
    )


@pytest.mark.parametrize(
    ("is_masked", "owns_inputs"), [(False, False), (True, True)], ids=["new", "padded-in-place"]
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_it_is_the_l1_norm_and_its_gradient(activation, dtype, is_masked, owns_inputs, backend):
    gate_pre, up, grad_x1, mask_T = inputs(dtype, backend)
    if "shift" in activation and dtype != torch.float32:  # exact after the shift, too
        gate_pre = (gate_pre * 8).round() / 8
    mask_T = mask_T if is_masked else None
    expected = exact(gate_pre, up, grad_x1, mask_T, **activation)
    leaves = [gate_pre.clone().requires_grad_(), up.clone().requires_grad_()]
    x1, l1, num_active = reglu(
        *(leaf.clone() for leaf in leaves), mask_T, **activation, owns_inputs=owns_inputs
    )
    close(x1.detach(), expected[0], dtype)
    # what is summed is rounded x_1, as a hook on the down projection sees it
    real = x1.detach() if mask_T is None else x1.detach()[mask_T]
    assert l1.dtype == torch.float32
    assert l1.item() == pytest.approx(real.double().abs().sum().item(), rel=1e-6)
    assert num_active.dtype == torch.int64
    assert num_active == expected[2]
    assert not num_active.requires_grad
    slopes = grad([x1, l1], leaves, [grad_x1, torch.tensor(GRAD_L1, device=backend)])
    for found, wanted in zip(slopes, expected[3:], strict=True):
        close(found, wanted, dtype)


@pytest.mark.parametrize(
    "size",
    [(1, 1), (3, 1023), (2, 1024), (2, 2050), (35, 3)],
    ids=lambda size: "{}x{}".format(*size),
)
def test_sizes_that_are_no_multiple_of_a_block(size, backend, monkeypatch):
    if importlib.util.find_spec("triton"):
        sums = importlib.import_module("prosparse.kernels.triton.reglu")
        monkeypatch.setitem(sums.BLOCK_T, "BLOCK_T", 16)
    gate_pre, up, grad_x1 = torch.randn(3, *size, generator=torch.Generator().manual_seed(1)).to(
        backend
    )
    mask_T = torch.arange(size[0], device=backend) != 1
    expected = exact(gate_pre, up, grad_x1, mask_T)
    leaves = [gate_pre.requires_grad_(), up.requires_grad_()]
    x1, l1, num_active = reglu(*leaves, mask_T)
    close(x1.detach(), expected[0], torch.float32)
    assert l1.item() == pytest.approx(expected[1].item(), rel=1e-5, abs=1e-9)
    assert num_active == expected[2]
    slopes = grad([x1, l1], leaves, [grad_x1, torch.tensor(GRAD_L1, device=backend)])
    for found, wanted in zip(slopes, expected[3:], strict=True):
        close(found, wanted, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_active_and_stays_in_its_place(dtype, backend):
    gate_pre, up, grad_x1, mask_T = inputs(dtype, backend)
    gate_pre[0, 5] = torch.nan
    leaves = [gate_pre.requires_grad_(), up.requires_grad_()]
    x1, l1, num_active = reglu(*leaves, mask_T)
    assert x1.isnan().nonzero().tolist() == [[0, 5]]
    assert l1.isnan()
    assert num_active == x1[mask_T].count_nonzero()
    d_gate, d_up = grad(x1, leaves, grad_x1)
    assert d_up.isnan().nonzero().tolist() == [[0, 5]]
    assert d_gate[0, 5] == grad_x1[0, 5] * up[0, 5]  # NaN is not flat
    gate_pre.data[1, 5] = torch.nan  # of a token that is padding
    assert reglu(gate_pre, up, mask_T).num_active == num_active


def test_two_runs_are_bit_equal(backend):
    gate_pre, up, _, _ = inputs(torch.bfloat16, backend, T=301, F=67)
    first, second = (reglu(gate_pre, up) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("owns_inputs", [False, True], ids=["new", "in-place"])
def test_halves_of_one_matrix_are_read_and_written_where_they_lie(owns_inputs, backend):
    gate_pre, up, grad_x1, _ = inputs(torch.float32, backend)
    both = torch.cat([gate_pre, up], dim=1).requires_grad_()
    x1, l1, _ = reglu(*(both * 1).chunk(2, dim=1), owns_inputs=owns_inputs)
    (found,) = grad([x1, l1], both, [grad_x1, torch.ones((), device=backend)])
    leaves = [gate_pre.requires_grad_(), up.requires_grad_()]
    x1, l1, _ = reglu(*leaves)
    slopes = grad([x1, l1], leaves, [grad_x1, torch.ones((), device=backend)])
    assert torch.equal(found, torch.cat(slopes, dim=1))


def test_columns_need_not_be_neighbors(backend):
    gate_pre, up, grad_x1, _ = (
        t.T for t in inputs(torch.float32, backend, T=37, F=5)[:3] + (torch.empty(0, 0),)
    )
    expected = reglu(gate_pre.contiguous(), up.contiguous())
    leaf = gate_pre.clone(memory_format=torch.preserve_format).requires_grad_()
    x1, l1, _ = reglu(leaf * 1, up, owns_inputs=True)
    assert torch.equal(x1, expected.x1)
    assert torch.equal(grad(x1, leaf, grad_x1)[0], (grad_x1 * up).masked_fill(gate_pre <= 0, 0))


def test_only_the_norm_or_only_x1_may_be_needed(backend):
    gate_pre, up, grad_x1, mask_T = inputs(torch.float32, backend)
    leaves = [gate_pre.requires_grad_(), up.requires_grad_()]
    gate = gate_pre.relu()
    d_gate, d_up = grad(reglu(*leaves, mask_T).l1, leaves)
    signs = ((gate * up).sign() * mask_T[:, None]).detach()
    torch.testing.assert_close(d_up, signs * gate)
    torch.testing.assert_close(d_gate, (signs * up).masked_fill(gate_pre <= 0, 0))
    d_gate, d_up = grad(reglu(*leaves, mask_T).x1, leaves, grad_x1)
    torch.testing.assert_close(d_up, grad_x1 * gate)


def test_the_reference_is_the_models_own_activation():
    for name, activation in ACTIVATIONS.items():
        gate_pre, up, grad_x1, _ = inputs(torch.float32, "cpu")
        leaves = [gate_pre.requires_grad_(), up.requires_grad_()]
        own = module(**activation)(gate_pre) * up
        x1 = reglu(*leaves, **activation).x1
        assert torch.equal(x1, own), name
        for mine, theirs in zip(grad(x1, leaves, grad_x1), grad(own, leaves, grad_x1), strict=True):
            assert torch.equal(mine, theirs), name


def ffn(x, gate_proj, up_proj, down_proj):
    x1, l1, num_active = reglu(
        functional.linear(x, gate_proj), functional.linear(x, up_proj), owns_inputs=True
    )
    return functional.linear(x1, down_proj), l1, num_active


def by_hand(x, gate_proj, up_proj, down_proj):
    x1 = functional.linear(x, gate_proj).relu() * functional.linear(x, up_proj)
    return functional.linear(x1, down_proj), x1.abs().sum(), x1.count_nonzero()


def step(run):
    torch.manual_seed(42)
    sizes = [(6, 16), (24, 16), (24, 16), (16, 24)]
    leaves = [torch.randn(size).requires_grad_() for size in sizes]
    y, l1, num_active = run(*leaves)
    slopes = grad([y, l1], leaves, [torch.randn(y.shape), torch.tensor(GRAD_L1)])
    return [y, l1, num_active, *slopes]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(ffn, id="eager"),
        pytest.param(functools.partial(checkpoint, ffn, use_reentrant=False), id="checkpointed"),
        pytest.param("aot_eager", id="compiled"),
        pytest.param("inductor", id="inductor", marks=pytest.mark.slow),
    ],
)
def test_an_ffn_trains_as_by_hand(run):
    if isinstance(run, str):
        run = torch.compile(ffn, backend=run, fullgraph=True)
    for found, expected in zip(step(run), step(by_hand), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_the_compiler_copies_nothing_for_the_backward_pass(monkeypatch):
    reinplace = importlib.import_module("torch._inductor.fx_passes.reinplace")
    lines = []
    monkeypatch.setattr(reinplace.log, "info", lambda text, *values: lines.append(text % values))
    torch.compiler.reset()
    with torch._inductor.config.patch(fx_graph_cache=False):
        step(torch.compile(ffn, fullgraph=True))
    (line,) = [line for line in lines if "reglu_backward" in line]
    assert "successfully reinplaced=[0, 1], remain clones=[]" in line


def test_nothing_but_the_inputs_is_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gate_pre, up = (torch.randn(6, 24, requires_grad=True) * 1 for _ in range(2))
        kept.clear()
        reglu(gate_pre, up)
    assert [t.data_ptr() for t in kept] == [gate_pre.data_ptr(), up.data_ptr()]


@pytest.mark.parametrize("owns_inputs", [False, True])
def test_the_backward_pass_writes_where_it_is_allowed_to(owns_inputs):
    pre = [torch.randn(6, 24, requires_grad=True) * 1 for _ in range(2)]
    before = [tensor.detach().clone() for tensor in pre]
    places, slopes = [tensor.data_ptr() for tensor in pre], []
    for tensor in pre:
        tensor.register_hook(lambda slope: slopes.append(slope.data_ptr()))
    reglu(*pre, owns_inputs=owns_inputs).x1.sum().backward()
    assert (set(slopes) == set(places)) is owns_inputs
    for tensor, values in zip(pre, before, strict=True):
        assert torch.equal(tensor, values) is not owns_inputs


def test_who_needs_what_was_overwritten_is_told():
    leaf = torch.randn(6, 24, requires_grad=True)
    gate_pre = leaf * 1
    square = gate_pre.square().sum()
    x1 = reglu(gate_pre, torch.randn(6, 24), owns_inputs=True).x1
    x1.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x1.sum().backward()


def test_opcheck():
    gate_pre, up = (torch.randn(3, 8, requires_grad=True) for _ in range(2))
    mask_T = torch.tensor([True, False, True])
    library = torch.ops.prosparse
    torch.library.opcheck(library.reglu, (gate_pre, up, mask_T, 0.1, 0.0, "new"))
    torch.library.opcheck(library.reglu, (gate_pre, up, None, None, 0.1, "new"))
    x, one = torch.randn(3, 8), torch.ones(())
    new = (torch.empty(3, 8), torch.empty(3, 8))
    torch.library.opcheck(library.reglu_backward, (x, one, x, x, mask_T, None, 0.0, *new))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 8), torch.ones(3, 8, 1)), r"up must be \[T, F\]"),
        ((torch.ones(0, 8), torch.ones(0, 8)), "not empty"),
        ((torch.ones(3, 8), torch.ones(3, 8).double()), "float32, bfloat16 or float16"),
        ((torch.ones(3, 7), torch.ones(3, 8)), r"gate_pre must be \[3, 8\]"),
        ((torch.ones(3, 8).half(), torch.ones(3, 8)), "gate_pre must be"),
        ((torch.ones(3, 8), torch.ones(3, 8), torch.ones(3)), r"mask_T must be bool \[3\]"),
        ((torch.ones(3, 8), torch.ones(3, 8), torch.ones(4) > 0), "mask_T must be bool"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reglu(*arguments)


def test_a_shift_goes_with_relu():
    with pytest.raises(ValueError, match="goes with ReLU only"):
        reglu(torch.ones(3, 8), torch.ones(3, 8), threshold=0.1, shift=0.1)
