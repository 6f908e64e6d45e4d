# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

import prosparse as ps
from prosparse.data.sources import Source
from prosparse.predictors.collect import collect
from tests.conftest import tiny_llama

FIT = {
    "rows": 800,
    "context_length": 32,
    "precision": "float32",
    "device": "cpu",
    "epochs": 2,
    "batch_size": 64,
    "progress": False,
}


@pytest.fixture
def relu_model():
    return tiny_llama(hidden_act="relu")


@pytest.fixture(scope="session")
def sources(texts):
    return {name: Source(path=str(path)) for name, path in texts.items()}


@pytest.fixture(scope="session")
def collected(relu_checkpoint, sources, tmp_path_factory):
    """The model and 800 pairs of each of its layers, reading the FFN's input."""
    model = ps.load(relu_checkpoint, dtype=torch.float32)
    pairs = collect(
        model,
        ps.load_tokenizer(relu_checkpoint),
        sources,
        tmp_path_factory.mktemp("pairs"),
        name="tiny",
        rows=800,
        reads="ffn-input",
        context_length=32,
        precision="float32",
        progress=False,
    )
    return model, pairs


@pytest.fixture(scope="session")
def fitted(relu_checkpoint, texts, tmp_path_factory):
    """A finished fit: rank 16, cut 0."""
    out = tmp_path_factory.mktemp("fit") / "predictors"
    ps.fit_predictors(relu_checkpoint, texts, out=out, rank=16, cut=0.0, **FIT)
    return out
