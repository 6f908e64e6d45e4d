# SPDX-License-Identifier: Apache-2.0
"""The CUDA sources compile for every architecture we support, on machines without a GPU."""

import pytest
import torch

pytest.importorskip("cuda.bindings.nvrtc")

from prosparse.kernels.cuda import compiler, programs
from prosparse.kernels.cuda.shape import Shape

ARCHITECTURES = {(8, 0): 163, (8, 9): 99, (9, 0): 227}  # KiB of shared memory for one block
NAMED = [(4096, 11008), (5120, 13824), (1536, 3840), (576, 1536)]
SHAPES = [
    # tokens, d_model, d_ff, dtype, aligned
    (1, 4096, 11008, torch.bfloat16, True),
    (1, 576, 1536, torch.float16, True),
    (3, 1536, 3840, torch.float32, True),
    (16, 37, 101, torch.bfloat16, False),
    (16, 576, 1536, torch.bfloat16, True),
    (1, 768, 3072, torch.bfloat16, False),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROSPARSE_CACHE", str(tmp_path))


def compile_program(program, capability):
    major, minor = capability
    return compiler.compile_cubin(program.source, dict(program.constants), f"sm_{major}{minor}")


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_source_compiles(shape, capability):
    shape = Shape(*shape, capability)
    found = [
        programs.gate_up(shape, "Dense", "Dense", "Dense", True, False),
        programs.gate_up(shape, "Dense", "Dense", "Dense", False, False, follows=True),
        programs.sparse_up(shape, "Dense", True, True),
        programs.sparse_up(shape, "Dense", True, False, follows=True),
        programs.sparse_down(shape, "Dense", True, False, False),
        programs.sparse_down(shape, "Dense", False, True, True),
    ]
    if shape.tokens <= 4:
        found.append(programs.linear(shape, (shape.d_ff,)))
        found.append(programs.linear(shape, (1, 2, shape.d_ff - 3), follows=True))
    if shape.has_tiles:
        found += [
            programs.gate_up_tiles(shape, "Dense", "Dense", True, False),
            programs.gate_up_tiles(shape, "Int4<32>", "Int8<64>", True, True, follows=True),
        ]
    if shape.vec == 8 and shape.d_model % 64 == 0:
        found += [
            programs.gate_up(shape, "Int4<64>", "Int8<32>", "Dense", True, False),
            programs.screened_up(shape, "Dense", True, False),
            programs.screened_up(shape, "Dense", True, False, follows=True),
            programs.sparse_down(shape, "Int4<64>", True, False, False),
        ]
    for program in found:
        assert compile_program(program, capability)[:4] == b"\x7fELF"


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("widths", NAMED, ids=str)
@pytest.mark.parametrize("tokens", [1, 4, 16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_shared_memory_is_there(widths, tokens, dtype, capability):
    program = programs.sparse_down(
        Shape(tokens, *widths, dtype, True, capability), "Dense", True, False, False
    )
    assert program.shared_bytes <= 1024 * ARCHITECTURES[capability]


@pytest.mark.parametrize("d_ff", [1, 15, 16, 101, 1536, 4097, 11008])
def test_every_neuron_is_dealt_out_once(d_ff):
    shape = Shape(1, 64, d_ff, torch.bfloat16, True, (9, 0))
    up = programs.sparse_up(shape, "Dense", True, False)
    constants, blocks = dict(up.constants), up.grid[0]
    run, slice_ = constants["RUN"], constants["SLICE"]
    assert slice_ % run == 0
    dealt = [
        (i // run * blocks + block) * run + i % run
        for block in range(blocks)
        for i in range(slice_)
    ]
    assert sorted(f for f in dealt if f < d_ff) == list(range(d_ff))

    splits, run = programs.sparse_down(shape, "Dense", False, False, False).cluster, programs.RUN
    share = -(-d_ff // (splits * run)) * run
    dealt = [
        (i // run * splits + split) * run + i % run for split in range(splits) for i in range(share)
    ]
    assert sorted(f for f in dealt if f < d_ff) == list(range(d_ff))


def test_clusters_are_as_large_as_the_architecture_has_them():
    def cluster(capability):
        shape = Shape(1, 4096, 11008, torch.bfloat16, True, capability)
        program = programs.sparse_down(shape, "Dense", True, False, False)
        return program.cluster, program.follows

    assert cluster((9, 0)) == (16, True)
    assert cluster((12, 0)) == (8, True)
    assert cluster((8, 9)) == (1, False)


def test_a_program_is_compiled_once(monkeypatch):
    compiled = []
    compile_anew = compiler._compile

    def counted(*arguments):
        compiled.append(arguments)
        return compile_anew(*arguments)

    monkeypatch.setattr(compiler, "_compile", counted)
    shape = Shape(1, 64, 96, torch.bfloat16, True, (9, 0))
    program = programs.gate_up(shape, "Dense", "Dense", "Dense", True, False)
    assert compile_program(program, (9, 0)) == compile_program(program, (9, 0))
    assert len(compiled) == 1
    compile_program(program, (8, 0))
    compile_program(programs.gate_up(shape, "Dense", "Dense", "Dense", True, True), (9, 0))
    assert len(compiled) == 3


def test_a_source_that_does_not_compile_shows_the_log():
    with pytest.raises(RuntimeError, match=r"gate_up\.cu does not compile:\n.*identifier"):
        compiler.compile_cubin("gate_up", {"T": 1}, "sm_90")


def test_a_cache_that_cannot_be_written_costs_only_time(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("PROSPARSE_CACHE", str(blocked / "below"))
    shape = Shape(1, 64, 96, torch.bfloat16, True, (9, 0))
    assert compile_program(programs.gate_up(shape, "Dense", "Dense", "Dense", True, False), (9, 0))


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    assert compiler.cache_folder() == tmp_path
    monkeypatch.delenv("PROSPARSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(compiler.cache_folder()) == "/somewhere/prosparse/kernels"
