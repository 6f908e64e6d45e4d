# SPDX-License-Identifier: Apache-2.0
"""Predictor folders: ours there and back, theirs in, and nothing but tensors unpickled."""

import json
import os

import pytest
import torch

from prosparse.errors import UserError
from prosparse.model.ffn import ffns
from prosparse.predictors.files import check_fit, read_predictors, write_predictors
from prosparse.predictors.predictor import Predictor, Predictors
from tests.conftest import tiny_llama


def predictors(reads="ffn-input"):
    torch.manual_seed(0)
    return Predictors(
        [
            Predictor(torch.randn(r, 32), torch.randn(48, r), cut)
            for r, cut in ((8, 0.5), (12, -1.0))
        ],
        reads,
    )


def write_imported(folder, config=None, **more):
    for layer, predictor in enumerate(predictors().layers):
        weights = {"fc1.weight": predictor.fc1.half(), "fc2.weight": predictor.fc2.half(), **more}
        torch.save(weights, folder / f"model_{layer}.pt")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def test_ours_there_and_back(tmp_path):
    write_predictors(predictors("residual"), tmp_path)
    found = read_predictors(tmp_path)
    assert found.reads == "residual"
    for a, b in zip(found.layers, predictors().layers, strict=True):
        assert torch.equal(a.fc1, b.fc1)
        assert torch.equal(a.fc2, b.fc2)
        assert a.cut == b.cut


@pytest.mark.parametrize(("config", "cut"), [(None, 0.0), ({"sparse_threshold": 0.3}, 0.3)])
def test_folders_of_powerinfer(tmp_path, config, cut):
    write_imported(tmp_path, config)
    found = read_predictors(tmp_path)
    assert found.reads == "residual"
    assert [(p.rank, p.cut, p.fc1.dtype) for p in found.layers] == [
        (8, cut, torch.float32),
        (12, cut, torch.float32),
    ]
    assert torch.equal(found.layers[1].fc2, predictors().layers[1].fc2.half().float())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_code_in_a_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"fc1.weight": Harmful()}, tmp_path / "model_0.pt")
    with pytest.raises(UserError, match="more than tensors"):
        read_predictors(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_biases_are_refused(tmp_path):
    write_imported(tmp_path, **{"fc2.bias": torch.zeros(48)})
    with pytest.raises(UserError, match=r"no biases.*fc2\.bias"):
        read_predictors(tmp_path)


def test_a_folder_without_predictors(tmp_path):
    with pytest.raises(UserError, match=r"neither predictors\.safetensors"):
        read_predictors(tmp_path)
    (tmp_path / "predictors.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="fit them again"):
        read_predictors(tmp_path)


def test_those_of_another_model_are_refused():
    found = ffns(tiny_llama(hidden_act="relu"))
    check_fit(predictors(), found)
    with pytest.raises(UserError, match="for 1 layers and 2 FFNs"):
        check_fit(Predictors(predictors().layers[:1]), found)
    with pytest.raises(UserError, match="d_model x d_ff 32 x 48; that of the model is 32 x 40"):
        check_fit(predictors(), ffns(tiny_llama(hidden_act="relu", intermediate_size=40)))
