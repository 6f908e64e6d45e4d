# SPDX-License-Identifier: Apache-2.0
"""The benchmark of training steps on a CPU: all of its logic, on sizes where times mean nothing."""

import pytest

import prosparse as ps
from prosparse.benchmarking import training_step
from prosparse.benchmarking.peak import flops_per_token, peak_flops
from prosparse.benchmarking.training_step import bench_train_step
from prosparse.errors import UserError
from prosparse.model import shapes
from prosparse.model.shapes import Shape
from prosparse.records.files import read_record

OPTIONS = {
    "context_length": 16, "steps": 3, "accumulation": 2, "compiled": False, "sharding": "none",
    "precision": "float32", "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", Shape("tiny", 32, 48, 2, 4, 2, 257))


def test_steps_are_timed_and_reported(tmp_path):
    record = bench_train_step("tiny", out=tmp_path / "out", **OPTIONS)
    assert read_record(tmp_path / "out") == record
    assert len(record.step_seconds) == 3
    assert min(record.step_seconds) > 0
    median = sorted(record.step_seconds)[1]
    assert record.tokens_per_second == pytest.approx(2 * 16 / median)
    # 2 layers of q, o [32, 32], k, v [16, 32], three [32, 48] and norms, the last norm, the head.
    products = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32) + 32 + 257 * 32
    assert record.num_parameters == products + 257 * 32
    assert record.flops_per_token == 6 * products + 12 * 2 * 32 * 16
    assert (record.peak_flops, record.mfu, record.peak_gib) == (None, None, None)
    assert 0.3 < record.sparsity < 0.7
    page = ps.report(tmp_path / "out").read_text()
    assert "tokens/s on each of 1 device" in page


def test_mfu_is_the_share_of_the_peak(monkeypatch):
    monkeypatch.setattr(training_step, "device_name", lambda device: "NVIDIA H100 80GB HBM3")
    record = bench_train_step("tiny", **{**OPTIONS, "precision": "bfloat16"})
    assert record.peak_flops == 989.4e12
    flops = record.tokens_per_second * record.flops_per_token
    assert record.mfu == pytest.approx(flops / 989.4e12)


def test_steps_that_compute_something_else_get_no_time(monkeypatch):
    monkeypatch.setattr(training_step, "LOSS_SLACK", 0.0)
    with pytest.raises(UserError, match="compute something else, and get no time"):
        bench_train_step("tiny", **OPTIONS)


def test_a_7b_model_takes_46_gflops_a_token_at_4096():
    assert flops_per_token(6_607_343_616, 32, 4096, 4096) == pytest.approx(46.09e9, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("AMD EPYC 7B13", None),
    ],
)
def test_peaks(name, peak):
    assert peak_flops(name) == peak


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="--steps must be at least 1"):
        bench_train_step("tiny", **{**OPTIONS, "steps": 0})
    with pytest.raises(UserError, match="--shape must be one of"):
        bench_train_step("huge", **OPTIONS)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        bench_train_step("tiny", out=tmp_path / "out", **OPTIONS)
