# SPDX-License-Identifier: Apache-2.0
"""Decoding by predictors beside dense and exact decoding."""

import pytest
import torch

from prosparse.benchmarking.decode import bench_decode
from prosparse.errors import UserError
from prosparse.predictors.files import write_predictors
from prosparse.predictors.predictor import Predictor, Predictors
from prosparse.records.files import read_record
from prosparse.reporting.page import report
from prosparse.reporting.speed_grids import check_text, predicted_grid
from tests.conftest import tiny_llama

OPTIONS = {"device": "cpu", "quick": True, "tokens": 6, "prompt": "def"}


def written(folder, cut, gates=False):
    """Random predictors, or ones that are the gates themselves."""
    torch.manual_seed(0)
    layers = []
    for layer in tiny_llama(hidden_act="relu").model.layers:
        fc1, fc2 = torch.randn(8, 32), torch.randn(48, 8)
        if gates:
            gate, eye = layer.mlp.gate_proj.weight.detach(), torch.eye(32)
            fc1, fc2 = torch.cat([eye, -eye]), torch.cat([gate, -gate], dim=1)
        layers.append(Predictor(fc1, fc2, cut))
    folder.mkdir()
    write_predictors(Predictors(layers), folder)
    return folder


def test_side_by_side(relu_checkpoint, tmp_path):
    folder = written(tmp_path / "predictors", 0.5)
    record = bench_decode(
        relu_checkpoint, predictors=folder, compiled=False, out=tmp_path / "out", **OPTIONS
    )
    assert read_record(tmp_path / "out") == record
    assert record.not_run == ()
    last = record.rows[-1]
    assert (last.contender, last.is_approximate) == ("predicted, our loop", True)
    assert last.ms > 0
    assert record.fastest_predicted == last
    assert not record.fastest_sparse.is_approximate
    found = record.predicted
    assert found.predictors == "predictors"
    assert found.sparsity == pytest.approx(record.sparsity, abs=0.02)
    assert 0 < found.recall < 1
    assert found.missed > 0.1
    assert found.logit_difference > 0
    assert found.predictor_mb == pytest.approx(2 * (8 * 32 + 48 * 8) * 4e-6)
    grid = predicted_grid(record)
    assert [row[0] for row in grid.rows] == [
        record.fastest_dense.contender, record.fastest_sparse.contender, last.contender,
    ]  # fmt: skip
    assert grid.rows[2][2] == f"{100 * found.recall:.2f} %"
    assert "Dense, exact, predicted" in report(tmp_path / "out").with_suffix(".md").read_text()


def test_predictors_that_are_the_gates_change_nothing(relu_checkpoint, tmp_path):
    folder = written(tmp_path / "predictors", -1e-4, gates=True)
    record = bench_decode(relu_checkpoint, predictors=folder, compiled=False, **OPTIONS)
    assert record.predicted.recall == 1
    assert record.predicted.missed == 0
    assert record.predicted.logit_difference < 1e-4
    last = record.rows[-1]
    assert last.check.first_difference is None
    assert check_text(last.check, is_approximate=True) == "6 equal"


def test_of_a_model_whose_weights_are_plain(relu_checkpoint, tmp_path):
    folder = written(tmp_path / "predictors", 0.0)
    with pytest.raises(UserError, match="--predictors are of a MODEL"):
        bench_decode(predictors=folder, device="cpu")
    with pytest.raises(UserError, match="--predictors are of a MODEL"):
        bench_decode(relu_checkpoint, predictors=folder, weight_bits=8, device="cpu")
    with pytest.raises(UserError, match="No predictors in"):
        bench_decode(relu_checkpoint, predictors=tmp_path, device="cpu")
