# SPDX-License-Identifier: Apache-2.0
"""The operator benchmark on a CPU: all of its logic, on sizes where times mean nothing."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from prosparse.benchmarking import ops
from prosparse.benchmarking.contenders import contenders
from prosparse.benchmarking.ops import bench_ops, with_speedups
from prosparse.errors import UserError
from prosparse.kernels import reference
from prosparse.kernels.backend import choose_backend
from prosparse.kernels.ffn_weights import FFNWeights
from prosparse.records.files import read_record


def weights(layer):
    return FFNWeights(layer.gate_proj, layer.up_proj, layer.down_projT)


OPTIONS = {"device": "cpu", "quick": True}
BACKEND = choose_backend(torch.device("cpu"))


@pytest.fixture
def enter(monkeypatch):
    """Return a function that puts one more contender into the whole-FFN contest."""

    def put(build, name="mine", **fields):
        def more(device, backends):
            found = contenders(device, backends)
            like = next(c for c in found if c.step == "ffn" and not c.is_dense)
            return [*found, dataclasses.replace(like, name=name, build=build, **fields)]

        monkeypatch.setattr(ops, "contenders", more)

    return put


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_contender_is_timed_and_right(dtype, tmp_path):
    seen = []
    record = bench_ops(
        ["64x192", "96x320"],
        dtype=dtype,
        tokens=[1, 3],
        masks=["random", "clustered"],
        out=tmp_path / "out",
        on_row=seen.append,
        **OPTIONS,
    )
    assert not any(row.is_wrong for row in record.rows)
    assert all(row.us > 0 and row.us_p10 <= row.us <= row.us_p90 for row in record.rows)
    assert {row.step for row in record.rows} == {"gate", "up", "down", "ffn"}
    assert [dataclasses.replace(row, speedup=None) for row in seen] == [
        dataclasses.replace(row, speedup=None) for row in record.rows
    ]
    # 96 is no multiple of 64, which screens and quantized weights want
    assert [item.contender for item in record.not_run] == [
        f"screened_ffn, {BACKEND} at 96x320",
        f"sparse_ffn, int8 weights, {BACKEND} at 96x320",
        f"sparse_ffn, int4 weights, {BACKEND} at 96x320",
    ]
    assert read_record(tmp_path / "out") == record
    assert record.model == "64x192, 96x320"
    assert record.dtype == dtype


def test_dense_contenders_run_once_for_each_number_of_tokens():
    record = bench_ops(["64x192"], tokens=[1, 3], **OPTIONS)
    dense = [(row.step, row.num_tokens) for row in record.rows if row.is_dense]
    assert sorted(dense) == sorted((s, t) for s in ("gate", "up", "down", "ffn") for t in (1, 3))
    for row in record.rows:
        assert row.speedup is not None
        assert row.speedup_compiled is None


def test_rows_say_what_was_active(tmp_path):
    np.save(tmp_path / "real.npy", np.arange(8 * 192).reshape(8, 192) % 4 == 0)
    record = bench_ops(
        ["64x192"], tokens=[1, 4], masks=["random", str(tmp_path / "real.npy")], **OPTIONS
    )
    sparse = [row for row in record.rows if row.contender == f"sparse_up, {BACKEND}"]
    real = [row for row in sparse if row.mask == "real.npy"]
    assert [row.sparsity for row in real] == pytest.approx([0.75, 0.75])
    assert [row.union for row in real] == pytest.approx([0.25, 0.25])
    matrix = 64 * 192 * 2 / 1e6
    for row in sparse:
        assert row.mb == pytest.approx(row.union * matrix)
    independent = next(row for row in sparse if row.mask == "random" and row.num_tokens == 4)
    assert 1 - independent.sparsity < independent.union < 4 * (1 - independent.sparsity)


def test_a_wrong_result_gets_no_time(enter):
    enter(lambda layer: lambda: torch.zeros_like(layer.x))
    record = bench_ops(["64x192"], **OPTIONS)
    mine = [row for row in record.rows if row.contender == "mine"]
    assert mine
    for row in mine:
        assert row.is_wrong
        assert row.error == pytest.approx(1.0)
        assert (row.us, row.us_p10, row.speedup, row.gb_per_second) == (None,) * 4


def test_memory_that_is_not_written_is_wrong(enter):
    def build(layer):
        right = reference.sparse_ffn(layer.x, weights(layer))
        kept = right.clone()

        def call():
            kept[:, 1:] = right[:, 1:]  # the first column is right only by what stood there
            return kept

        return call

    enter(build)
    record = bench_ops(["64x192"], **OPTIONS)
    assert all(row.error == math.inf for row in record.rows if row.contender == "mine")


def test_a_result_that_turns_wrong_while_it_is_timed_loses_its_time(enter):
    def build(layer):
        count = [0]

        def call():
            count[0] += 1
            right = reference.sparse_ffn(layer.x, weights(layer))
            return right if count[0] < 5 else torch.zeros_like(right)

        return call

    enter(build)
    record = bench_ops(["64x192"], **OPTIONS)
    mine = [row for row in record.rows if row.contender == "mine"]
    assert all(row.is_wrong and row.us is None for row in mine)


def test_of_what_is_compiled_the_fastest_of_several_tries_counts(enter, monkeypatch):
    resets, tries = [], iter([7.0, 3.0, 5.0])
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    run = ops._Runner._run

    def timed(self, contender, *arguments):
        row = run(self, contender, *arguments)
        return dataclasses.replace(row, us=next(tries)) if contender.is_compiled else row

    monkeypatch.setattr(ops._Runner, "_run", timed)
    enter(
        lambda layer: lambda: reference.sparse_ffn(layer.x, weights(layer)),
        is_dense=True,
        is_compiled=True,
    )
    record = bench_ops(["64x192"], sparsity=[0.5], **OPTIONS)
    (mine,) = (row for row in record.rows if row.contender == "mine")
    assert mine.us == 3.0
    assert len(resets) == ops.COMPILATIONS == 3


def test_a_contender_that_fails_costs_only_itself(enter):
    def fail(layer):
        raise RuntimeError("no such kernel\nmore")

    enter(fail)
    record = bench_ops(["64x192"], **OPTIONS)
    (item,) = record.not_run
    assert item.is_failure
    assert item.reason == "failed with RuntimeError: no such kernel"
    assert len(record.rows) > 10


def test_speedups_compare_with_the_same_step_and_tokens_only():
    record = bench_ops(["64x192"], tokens=[1, 2], **OPTIONS)
    timed = [dataclasses.replace(row, us=10.0 * row.num_tokens) for row in record.rows]
    one = next(i for i, row in enumerate(timed) if row.is_dense and row.step == "ffn")
    compiled = dataclasses.replace(timed[one], contender="compiled", is_compiled=True, us=5.0)
    rows = with_speedups([*timed, compiled])
    sparse = [row for row in rows if row.contender == f"sparse_ffn, {BACKEND}"]
    assert {row.speedup for row in sparse} == {1.0}
    assert {row.speedup_compiled for row in sparse if row.num_tokens == 1} == {0.5}
    assert {row.speedup_compiled for row in sparse if row.num_tokens == 2} == {None}
    assert {row.speedup_compiled for row in rows if row.step != "ffn"} == {None}


def test_mistakes_are_found_before_any_work(tmp_path):
    with pytest.raises(UserError, match="--dtype must be one of"):
        bench_ops(["64x192"], dtype="int8", **OPTIONS)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        bench_ops(["64x192"], out=tmp_path / "out", **OPTIONS)
