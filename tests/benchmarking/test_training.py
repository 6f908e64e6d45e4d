# SPDX-License-Identifier: Apache-2.0
"""The training benchmark on a CPU: all of its logic, on sizes where times mean nothing."""

import functools

import pytest
import torch

from prosparse.benchmarking import training, training_contenders
from prosparse.benchmarking.timing import Repeats, Stopwatch
from prosparse.benchmarking.training import bench_train
from prosparse.benchmarking.training_contenders import Contender, contenders
from prosparse.benchmarking.training_reference import Errors, Reference, make_inputs
from prosparse.errors import UserError
from prosparse.model.shapes import parse_shapes
from prosparse.records.files import read_record
from prosparse.records.speed import SpeedLimit

CPU = torch.device("cpu")
OPTIONS = {"tokens": 40, "device": "cpu", "quick": True}


@pytest.fixture
def enter(monkeypatch):
    """Return a function that puts one more contender into the contest."""

    def put(intermediate, part="ffn"):
        more = [*contenders(False), Contender(part, "mine", intermediate, is_compiled=False)]
        monkeypatch.setattr(training, "contenders", lambda is_compiling: more)

    return put


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_contender_is_timed_and_right(dtype, tmp_path):
    seen = []
    record = bench_train("64x192", dtype=dtype, out=tmp_path / "out", on_row=seen.append, **OPTIONS)
    assert not record.not_run
    assert not any(row.is_wrong for row in record.rows)
    assert all(0 < row.ms_p10 <= row.ms <= row.ms_p90 for row in record.rows)
    assert tuple(seen) == record.rows
    assert read_record(tmp_path / "out") == record
    assert record.baseline == "SwiGLU, eager"
    for part in ("ffn", "elementwise"):
        assert record.row(part, record.baseline).over_baseline == 0
    counted = [row for row in record.rows if row.l1_error is not None]
    assert len(counted) == 4  # hooks and fused, in the FFN and alone
    assert all(row.count_error == 0 for row in counted)
    assert all((row.limit_ms is None) == (row.part == "ffn") for row in record.rows)
    assert record.gemm_flops == 18 * 40 * 64 * 192
    assert 0.4 < record.sparsity < 0.6


def test_compiled_contenders_are_right_too(monkeypatch):
    compiling = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(training_contenders.torch, "compile", compiling)
    stopwatch = Stopwatch(CPU, Repeats(1, 2))
    (shape,) = parse_shapes(["64x192"])
    inputs = make_inputs(shape, 40, torch.bfloat16, CPU, 0)
    runner = training._Runner(stopwatch, inputs, SpeedLimit("", 1.0, 1.0, ()))
    for contender in contenders(is_compiling=True):
        runner.enter(contender)
    rows = runner.run("SwiGLU, torch.compile")
    assert not runner.not_run
    compiled = [row for row in rows if "torch.compile" in row.contender]
    assert len(compiled) == 7
    assert not any(row.is_wrong for row in compiled)
    assert all(row.over_baseline is not None for row in rows)


def spoiled(what):
    """Return an intermediate of which one thing is wrong by a percent or by one."""

    def intermediate(gate_pre, up):
        x1, l1, num_active = training_contenders.hooked(gate_pre, up)
        if what == "x1":
            x1 = x1 * 1.01
        if what == "l1":
            l1 = l1 * 1.01
        if what == "gradient of l1":
            l1 = l1.detach() + 0 * x1.sum()
        if what == "count":
            num_active = num_active + 1
        return x1, l1, num_active

    return intermediate


@pytest.mark.parametrize("what", ["x1", "l1", "gradient of l1", "count"])
def test_a_wrong_result_gets_no_time(enter, what):
    enter(spoiled(what), "elementwise")
    record = bench_train("64x192", **OPTIONS)
    mine = record.row("elementwise", "mine")
    assert mine.is_wrong
    assert (mine.ms, mine.ms_p90, mine.over_baseline) == (None,) * 3
    assert sum(row.is_wrong for row in record.rows) == 1


def test_a_result_that_turns_wrong_while_it_is_timed_loses_its_time(enter):
    calls = []

    def intermediate(gate_pre, up):
        calls.append(1)
        return spoiled("x1" if len(calls) > 5 else "")(gate_pre, up)

    enter(intermediate)
    mine = bench_train("64x192", **OPTIONS).row("ffn", "mine")
    assert mine.is_wrong
    assert mine.ms is None


def test_a_contender_that_fails_costs_only_itself(enter):
    def fail(gate_pre, up):
        raise RuntimeError("no such kernel\nmore")

    enter(fail)
    record = bench_train("64x192", **OPTIONS)
    (item,) = record.not_run
    assert item.is_failure
    assert item.contender == "mine (ffn)"
    assert item.reason == "failed with RuntimeError: no such kernel"
    assert len(record.rows) == 9


def test_the_reference_is_that_of_autograd():
    (shape,) = parse_shapes(["64x192"])
    inputs = make_inputs(shape, 40, torch.float32, CPU, 0)
    reference = Reference(inputs, torch.relu, is_penalized=True)
    leaves = [inputs.x, inputs.gate_proj, inputs.up_proj, inputs.down_proj]
    x1 = torch.relu(leaves[0] @ leaves[1].T) * (leaves[0] @ leaves[2].T)
    y = x1 @ leaves[3].T
    slopes = torch.autograd.grad([y, x1.abs().sum()], leaves, [inputs.grad_y, inputs.grad_l1])
    names = ["d_x", "d_gate_proj", "d_up_proj", "d_down_proj"]
    errors = Errors.of(dict(zip(["y", *names], [y.detach(), *slopes], strict=True)), reference.ffn)
    assert errors.error < 1e-6


def test_mistakes_are_found_before_any_work(tmp_path):
    with pytest.raises(UserError, match="--dtype must be one of"):
        bench_train("64x192", dtype="int8", **OPTIONS)
    with pytest.raises(UserError, match="--tokens must be at least 1; found 0"):
        bench_train("64x192", **{**OPTIONS, "tokens": 0})
    with pytest.raises(UserError, match="--shape must be one of"):
        bench_train("huge", **OPTIONS)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        bench_train("64x192", out=tmp_path / "out", **OPTIONS)
