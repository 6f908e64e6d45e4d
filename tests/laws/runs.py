# SPDX-License-Identifier: Apache-2.0
"""Records of runs that follow a law, made without running."""

import dataclasses
import math

from prosparse.model.device import provenance
from prosparse.records.files import write_record
from prosparse.records.law import LawPoint
from prosparse.records.run import Milestone, TrainRecord
from prosparse.records.sparsity import Activation

PAPER = (-1.76, 0.30, 3.49)
FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def sparsity_of(factor, a=PAPER[0], alpha=PAPER[1], b=PAPER[2]):
    return 1 - math.exp(a * factor**alpha + b) / 100


def points(factors=FACTORS, law=PAPER, noise=None):
    shares = [sparsity_of(factor, *law) for factor in factors]
    if noise is not None:
        shares = [1 - (1 - s) * math.exp(e) for s, e in zip(shares, noise, strict=True)]
    return [LawPoint(f"run{i}", f, s) for i, (f, s) in enumerate(zip(factors, shares, strict=True))]


def make_record(model):
    relu = Activation("relu", None)
    last = Milestone("stage 2", relu, 9, 0.1, 900, 0.8, (0.7, 0.9), ())
    return TrainRecord(
        model, {"regularization": {"normalization": "mean"}}, relu, (), (last,), 9, 900, 100,
        1.0, 900.0, "float32", provenance("cpu"),
    )  # fmt: skip


def folders(tmp_path, record, found):
    for point in found:
        folder = tmp_path / point.run
        folder.mkdir()
        last = dataclasses.replace(
            record.milestones[-1], factor=point.factor, sparsity=point.sparsity
        )
        write_record(dataclasses.replace(record, milestones=(last,)), folder)
    return [tmp_path / point.run for point in found]
