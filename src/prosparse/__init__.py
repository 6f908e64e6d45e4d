# SPDX-License-Identifier: Apache-2.0
"""prosparse: make Swish/GELU language models sparsely activated, and measure what that gives.

The verbs are the same as on the command line; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prosparse.model.registration import register as _register

if TYPE_CHECKING:
    from prosparse.benchmarking.decode import bench_decode
    from prosparse.benchmarking.ops import bench_ops
    from prosparse.benchmarking.training import bench_train
    from prosparse.benchmarking.training_step import bench_train_step
    from prosparse.errors import UserError
    from prosparse.evaluation.run import evaluate
    from prosparse.exporting.run import export
    from prosparse.laws.frontier import frontier
    from prosparse.laws.lambda_law import plan
    from prosparse.laws.run import fit
    from prosparse.measurement.inspection import inspect
    from prosparse.measurement.run import measure
    from prosparse.model.checkpoint import load, load_tokenizer
    from prosparse.model.hub import push
    from prosparse.model.relufy import relufy
    from prosparse.pipeline.run import sparsify
    from prosparse.predictors.evaluation import evaluate_predictors
    from prosparse.predictors.run import fit_predictors
    from prosparse.quantization.in_place import quantize_in_place
    from prosparse.quantization.run import quantize
    from prosparse.reporting.page import report
    from prosparse.runtime.accelerate import accelerate
    from prosparse.runtime.doctor import doctor
    from prosparse.runtime.generate import generate
    from prosparse.serving.run import serve
    from prosparse.thresholds.run import threshold
    from prosparse.training.run import train

__version__ = "0.1.0"

_VERBS = {
    "UserError": "prosparse.errors",
    "accelerate": "prosparse.runtime.accelerate",
    "bench_decode": "prosparse.benchmarking.decode",
    "bench_ops": "prosparse.benchmarking.ops",
    "bench_train": "prosparse.benchmarking.training",
    "bench_train_step": "prosparse.benchmarking.training_step",
    "doctor": "prosparse.runtime.doctor",
    "evaluate": "prosparse.evaluation.run",
    "evaluate_predictors": "prosparse.predictors.evaluation",
    "export": "prosparse.exporting.run",
    "fit": "prosparse.laws.run",
    "fit_predictors": "prosparse.predictors.run",
    "frontier": "prosparse.laws.frontier",
    "generate": "prosparse.runtime.generate",
    "inspect": "prosparse.measurement.inspection",
    "load": "prosparse.model.checkpoint",
    "load_tokenizer": "prosparse.model.checkpoint",
    "measure": "prosparse.measurement.run",
    "plan": "prosparse.laws.lambda_law",
    "push": "prosparse.model.hub",
    "quantize": "prosparse.quantization.run",
    "quantize_in_place": "prosparse.quantization.in_place",
    "relufy": "prosparse.model.relufy",
    "report": "prosparse.reporting.page",
    "serve": "prosparse.serving.run",
    "sparsify": "prosparse.pipeline.run",
    "threshold": "prosparse.thresholds.run",
    "train": "prosparse.training.run",
}

__all__ = [
    "UserError",
    "accelerate",
    "bench_decode",
    "bench_ops",
    "bench_train",
    "bench_train_step",
    "doctor",
    "evaluate",
    "evaluate_predictors",
    "export",
    "fit",
    "fit_predictors",
    "frontier",
    "generate",
    "inspect",
    "load",
    "load_tokenizer",
    "measure",
    "plan",
    "push",
    "quantize",
    "quantize_in_place",
    "relufy",
    "report",
    "serve",
    "sparsify",
    "threshold",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'prosparse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


_register()
