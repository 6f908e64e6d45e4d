# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel through the real compiler, which needs no GPU."""

import importlib
import re

import pytest
import torch

from prosparse.kernels.ffn_weights import FFNWeights

triton = pytest.importorskip("triton")
compiler = pytest.importorskip("triton.backends.nvidia.compiler")
operators = importlib.import_module("prosparse.kernels.triton")

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.bool: "*i1",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


def empty(*shape, dtype):
    return torch.empty(*shape, dtype=dtype, device="meta")


def whole(D, F, dtype) -> FFNWeights:
    gate, up, down = (empty(F, D, dtype=dtype) for _ in range(3))
    return FFNWeights(gate, up, down)


def quantized(D, F, dtype) -> FFNWeights:
    """Gate and down of 4 bits, up of 8; everything else that an FFN may have."""
    scales = empty(F, D // 128, dtype=torch.float16)
    four, eight = empty(F, D // 2, dtype=torch.uint8), empty(F, D, dtype=torch.int8)
    bias_F, bias_D = empty(F, dtype=dtype), empty(D, dtype=dtype)
    return FFNWeights(
        *(four, eight, four, scales, scales, scales, bias_F, bias_F, bias_D), up_relu=True
    )


def source(kernel, arguments, blocks) -> triton.compiler.ASTSource:
    """Return the kernel as the just-in-time compiler would specialize it for this launch."""
    signature, constants, attributes = {}, {}, {}
    named = dict(zip(kernel.arg_names, arguments, strict=False)) | blocks
    for index, (name, value) in enumerate(named.items()):
        is_one = isinstance(value, int) and value == 1
        if kernel.params[index].is_constexpr or value is None or is_one:
            signature[name], constants[(index,)] = "constexpr", value
            continue
        is_tensor = isinstance(value, torch.Tensor)
        number = "fp32" if isinstance(value, float) else "i32"
        signature[name] = POINTERS[value.dtype] if is_tensor else number
        if is_tensor or (number == "i32" and value % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return triton.compiler.ASTSource(kernel, signature, constants, attributes)


@pytest.fixture
def launches(monkeypatch, tmp_path) -> list:
    """Instead of running a kernel, note (kernel, arguments, blocks)."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    noted = []
    for name in ("sparse_up", "gate_up", "sparse_down", "reglu", "activity"):
        module = importlib.import_module(f"prosparse.kernels.triton.{name}")
        record = lambda kernel, _grid, *arguments, **blocks: noted.append(  # noqa: E731
            (kernel, arguments, blocks)
        )
        monkeypatch.setattr(module, "launch", record)
    return noted


def compiled(launch, capability) -> str:
    """Return the PTX of a launch, after ptxas has made machine code of it."""
    kernel, arguments, blocks = launch
    if not isinstance(kernel, triton.JITFunction):
        pytest.skip("TRITON_INTERPRET is set: there is nothing to compile.")
    options = {name: blocks[name] for name in ("num_warps",) if name in blocks}
    blocks = {name: value for name, value in blocks.items() if name not in options}
    target = compiler.GPUTarget("cuda", capability, 32)
    made = triton.compile(source(kernel, arguments, blocks), target=target, options=options)
    assert made.asm["cubin"]
    ptx = made.asm["ptx"]
    # float32 stays float32, and no order of sums is left to chance but that of integers.
    assert not re.search(r"tf32|mma|\b(atom|red)\.[\w.:]*\.(f16|bf16|f32|f64)", ptx)
    return ptx


@pytest.mark.parametrize("capability", [80, 90], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("make", "T", "D", "F", "dtype"),
    [
        pytest.param(whole, 1, 4096, 11008, torch.bfloat16, id="bf16-one-token"),
        pytest.param(whole, 16, 33, 51, torch.float32, id="fp32-sixteen-odd"),
        pytest.param(quantized, 3, 4096, 11008, torch.float16, id="fp16-quantized"),
    ],
)
def test_kernels_compile(make, T, D, F, dtype, capability, launches):
    weights, x = make(D, F, dtype), empty(T, D, dtype=dtype)
    operators.sparse_ffn(x, weights, residual=x, float32_output=make is quantized)
    if make is whole:
        operators.sparse_up(empty(T, F, dtype=dtype), x, weights.up_proj, threshold=0.1)
    assert len(launches) == (4 if make is whole else 3)
    for launch in launches:
        compiled(launch, capability)


@pytest.mark.parametrize("capability", [80, 90], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("T", "F", "dtype", "is_masked"),
    [
        pytest.param(16384, 11008, torch.bfloat16, False, id="bf16"),
        pytest.param(16384, 1536, torch.float16, True, id="fp16-masked"),
        pytest.param(3, 51, torch.float32, True, id="fp32-odd"),
    ],
)
@pytest.mark.parametrize("threshold", [None, 0.1], ids=["relu", "fatrelu"])
def test_training_kernels_compile(threshold, T, F, dtype, is_masked, capability, launches):
    pre = empty(T, F, dtype=dtype)
    mask_T = empty(T, dtype=torch.bool) if is_masked else None
    operators.reglu(pre, pre, mask_T, threshold, 0.0)
    operators.reglu_backward(
        pre, empty(1, dtype=torch.float32), pre, pre, mask_T, threshold, 0.0, pre, pre
    )
    forward, closing, backward = launches
    for launch, num_loads in ((forward, 2), (backward, 3)):
        ptx = compiled(launch, capability)
        if F % 16 == 0:  # 16 bytes at once
            wide = re.findall(r"ld\.global[.\w:]*\.v4\.b32", ptx)  # twice as many once unrolled
            assert wide
            assert len(wide) % num_loads == 0
    compiled(closing, capability)


@pytest.mark.parametrize("capability", [80, 90], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param((16, 1024, 1536), torch.bfloat16, id="bf16"),
        pytest.param((1, 1024, 11008), torch.float16, id="fp16-one-window"),
        pytest.param((2, 33, 51), torch.float32, id="fp32-odd"),
    ],
)
def test_counting_kernels_compile(shape, dtype, capability, launches):
    x1 = empty(*shape, dtype=dtype)
    operators.count_active(x1.flatten(0, 1))
    operators.count_activity(x1)
    operators.sample_activity(x1, empty(32, dtype=torch.int64))
    rows, activity, sample = launches
    for launch in (rows, activity):
        ptx = compiled(launch, capability)
        # 16 bytes at once, and nothing waits for what an addition would return
        assert shape[-1] % 16 or re.search(r"ld\.global[.\w:]*\.v4\.b32", ptx)
        assert not re.search(r"\batom\.global", ptx)
    compiled(sample, capability)
