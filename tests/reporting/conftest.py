# SPDX-License-Identifier: Apache-2.0
"""Records made by hand: a line of 30 layers, 120 steps and five stages, and single stations."""

import json
import math

import pytest

from prosparse.records.files import LOG_NAME, write_record
from prosparse.records.provenance import Provenance
from prosparse.records.run import (
    Milestone,
    RelufyRecord,
    Sample,
    SparsifyRecord,
    StageRecord,
    TrainRecord,
)
from prosparse.records.sparsity import Activation, DataMeasure, MeasureRecord
from prosparse.records.threshold import ThresholdCandidate, ThresholdRecord

NUM_LAYERS = 30
TOKENS_PER_STEP = 16_384
MODEL = "/models/HuggingFaceTB/SmolLM2-135M"

PROVENANCE = Provenance(
    date="2026-11-20T14:03:11+00:00",
    command="prosparse sparsify HuggingFaceTB/SmolLM2-135M --recipe demo.yaml --out runs/demo",
    device="NVIDIA H100 80GB HBM3",
    num_threads=16,
    packages={"prosparse": "0.1.0", "torch": "2.11.0", "transformers": "5.23.0"},
    python="3.11.7",
    platform="Linux x86_64",
    git_commit="6938390abcde",
    seed=0,
)

# name, first step, last step, lambda where it begins, lambda where it ends
STAGES = (
    ("stage 0", 1, 40, 0.0, 0.0),
    ("stage 1", 41, 48, 5e-3, 5e-3),
    ("stage 2", 49, 80, 5e-3, 5e-2),
    ("stage 3", 81, 88, 5e-2, 5e-2),
    ("stage 4", 89, 120, 5e-2, 2e-1),
)


def layer_shares(mean):
    """Denser low layers, as in Figure 4, with the wanted mean in [0, 1]."""
    shape = [
        0.16 * math.tanh((layer - 8) / 7) + 0.02 * math.sin(2.1 * layer)
        for layer in range(NUM_LAYERS)
    ]
    offset = sum(shape) / NUM_LAYERS
    headroom = min(1.0, 6 * mean * (1 - mean))
    return tuple(mean + headroom * (value - offset) for value in shape)


def data_measure(name, perplexity, sparsity, stderr=0.024):
    return DataMeasure(
        data=name,
        source=f"/data/{name}.jsonl",
        num_tokens=24_576,
        num_predictions=24_528,
        loss=math.log(perplexity),
        loss_stderr=stderr,
        perplexity=perplexity,
        perplexity_stderr=perplexity * stderr,
        sparsity=sparsity,
        layer_sparsity=layer_shares(sparsity),
    )


def milestone(label, activation, factor, step, sparsity, *perplexities):
    return Milestone(
        label=label,
        activation=activation,
        step=step,
        factor=factor,
        tokens_seen=step * TOKENS_PER_STEP,
        sparsity=sparsity,
        layer_sparsity=layer_shares(sparsity),
        data=tuple(
            data_measure(name, perplexity, sparsity)
            for name, perplexity in zip(("prose", "code"), perplexities, strict=False)
        ),
    )


def candidate(threshold, sparsity, cost):
    return ThresholdCandidate(
        threshold=threshold,
        sparsity=sparsity,
        layer_sparsity=layer_shares(sparsity),
        data=(
            data_measure("prose", 17.31 * (1 + cost), sparsity),
            data_measure("code", 6.02 * (1 + cost), sparsity),
        ),
        perplexity_increase=cost,
        perplexity_increase_stderr=0.0004 + 0.08 * abs(cost) if threshold else 0.0,
        within_budget=cost <= 0.01,
    )


@pytest.fixture
def milestones():
    relu = Activation("relu")
    return (
        milestone("original", Activation("silu"), 0.0, 0, 0.0, 17.03, 5.91),
        milestone("ReLU, untrained", relu, 0.0, 0, 0.6213, 23157.0, 8123.4),
        milestone("stage 0", relu, 0.0, 40, 0.6541, 17.61, 6.11),
        milestone("stage 1", relu, 5e-3, 48, 0.6702, 17.55, 6.09),
        milestone("stage 2", relu, 5e-2, 80, 0.7718, 17.38, 6.05),
        milestone("stage 3", relu, 5e-2, 88, 0.7893, 17.33, 6.04),
        milestone("stage 4", relu, 2e-1, 120, 0.8312, 17.31, 6.02),
        milestone("threshold 0.02", Activation("fatrelu", 0.02), 2e-1, 120, 0.8443, 17.38, 6.05),
    )


@pytest.fixture
def stages():
    return tuple(
        StageRecord(name, first, last, start, end, end / 1536, last * TOKENS_PER_STEP)
        for name, first, last, start, end in STAGES
    )


@pytest.fixture
def log():
    return [_log_entry(step) for step in range(1, 121)]


def _log_entry(step):
    _, first, last, start, end = next(s for s in STAGES if s[1] <= step <= s[2])
    rise = (math.sin(-math.pi / 2 + math.pi * (step - first + 1) / (last - first + 1)) + 1) / 2
    factor = start + (end - start) * rise
    sparsity = 0.62 + 0.03 * (1 - math.exp(-step / 12)) + 0.19 * (factor / 0.2) ** 0.45
    noise = 0.12 * (math.sin(12.9898 * step**2) + math.sin(4.7 * step**1.5))
    loss = 2.9 + 6.5 * math.exp(-step / 5) + noise
    return {
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "loss": loss,
        "regularization": factor * 0.31,
        "l1": 1536 * 0.31,
        "factor": factor,
        "coefficient": factor / 1536,
        "sparsity": sparsity + noise / 40,
        "layer_sparsity": layer_shares(sparsity + noise / 60),
        "learning_rate": 3e-4,
        "grad_norm": 1.2,
        "tokens_per_second": 51_200.0,
        "seconds": 0.32 * step,
    }


@pytest.fixture
def threshold_record():
    return ThresholdRecord(
        model=MODEL,
        max_perplexity_increase=0.01,
        candidates=(
            candidate(0.0, 0.8312, 0.0),
            candidate(0.005, 0.8347, 0.0003),
            candidate(0.01, 0.8381, 0.0011),
            candidate(0.02, 0.8443, 0.0047),
            candidate(0.03, 0.8501, 0.0128),
            candidate(0.05, 0.8604, 0.0331),
            candidate(0.1, 0.8838, 0.53),
        ),
        chosen=0.02,
        context_length=512,
        dtype="float32",
        seconds=41.2,
        provenance=PROVENANCE,
    )


@pytest.fixture
def measure_record():
    return MeasureRecord(
        model=MODEL,
        activation=Activation("fatrelu", 0.02),
        dtype="float32",
        context_length=512,
        sparsity=0.8443,
        layer_sparsity=layer_shares(0.8443),
        data=(data_measure("prose", 17.38, 0.8321), data_measure("code", 6.05, 0.8565)),
        seconds=12.5,
        provenance=PROVENANCE,
    )


@pytest.fixture
def relufy_record():
    return RelufyRecord(
        model=MODEL,
        replaced=Activation("silu"),
        activation=Activation("relu"),
        num_layers=NUM_LAYERS,
        d_model=576,
        d_ff=1536,
        provenance=PROVENANCE,
    )


@pytest.fixture
def train_record(stages, milestones):
    return TrainRecord(
        model=MODEL,
        recipe={"model": MODEL, "optimizer": {"learning_rate": 3e-4}, "stages": [0, 5e-3, 5e-2]},
        activation=Activation("relu"),
        stages=stages,
        milestones=milestones[1:-1],
        num_steps=120,
        num_tokens=120 * TOKENS_PER_STEP,
        tokens_per_step=TOKENS_PER_STEP,
        seconds=38.4,
        tokens_per_second=51_200.0,
        precision="bfloat16",
        provenance=PROVENANCE,
    )


@pytest.fixture
def sparsify_record(train_record, threshold_record, milestones):
    return SparsifyRecord(
        model=MODEL,
        milestones=milestones,
        training=train_record,
        threshold=threshold_record,
        sample=Sample(
            prompt="The old lighthouse",
            text=" stood at the end of the pier.\n\nNobody had lit it in years.",
            seconds=0.84,
        ),
        seconds=190.0,
        provenance=PROVENANCE,
    )


@pytest.fixture
def run_folder(tmp_path):
    """Return a function that writes a record, and a log when given, as a run folder."""

    def write(record, log=()):
        write_record(record, tmp_path)
        (tmp_path / LOG_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in log))
        return tmp_path

    return write
