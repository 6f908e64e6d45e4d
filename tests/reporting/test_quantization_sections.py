# SPDX-License-Identifier: Apache-2.0
"""The page on a quantized checkpoint names what was kept and what each cost."""

import dataclasses

import pytest

from prosparse.records.quantization import QuantizedLayer, QuantizeRecord
from prosparse.reporting.quantization_sections import bits_grid, layers_grid, quality_grid
from prosparse.reporting.sections import sections
from prosparse.reporting.summary import headline, tiles
from tests.reporting.conftest import PROVENANCE, data_measure


@pytest.fixture
def record():
    layers = (
        QuantizedLayer("model.embed_tokens", 8, 1000, 0.0001, 0.02),
        QuantizedLayer("model.layers.0.mlp.up_proj", 4, 500, None, 0.0003),
        QuantizedLayer("model.layers.0.mlp.down_proj", None, 500, 0.83, None),
    )
    return QuantizeRecord(
        model="relu", bits=4, group_size=64, max_perplexity_increase=0.05,
        perplexity_increase=0.031, perplexity_increase_stderr=0.004,
        before=(data_measure("wiki", 20.0, 0.8),), after=(data_measure("wiki", 20.6, 0.8),),
        layers=layers, kept_dtype="bfloat16", bytes_before=4_000_000, bytes_after=1_500_000,
        deciding_tokens=640, deciding_divergence=0.029, context_length=1024, dtype="float32",
        seconds=60.0, provenance=PROVENANCE,
    )  # fmt: skip


def test_in_one_sentence(record):
    assert headline(record) == (
        "Of 3 linear layers and embeddings, 1 is in 4 bits, 1 is in 8 bits and 1 stays as it was: the "
        "weights shrink from 4.0 MB to 1.5 MB at +3.10 ± 0.40 % perplexity, within the budget of "
        "5.0 %, on text that took no part in deciding."
    )
    missed = dataclasses.replace(record, perplexity_increase=0.06)
    assert "more than the budget of 5.0 %" in headline(missed)
    assert ("1", "of 3 layers in 4 bits") in tiles(record)


def test_the_tables(record):
    assert quality_grid(record).header == ("", "weights", "ppl wiki", "sparsity")
    assert [row[0] for row in quality_grid(record).rows] == [
        "as it was (bfloat16)",
        "quantize --bits 4",
    ]
    assert bits_grid(record).rows == (
        ("4 bits", "1", "500", "25.0 %"),
        ("8 bits", "1", "1,000", "50.0 %"),
        ("bfloat16", "1", "500", "25.0 %"),
    )
    assert layers_grid(record.layers).rows[2] == (
        "model.layers.0.mlp.down_proj", "stays", "500", "0.8300", "–",
    )  # fmt: skip


def test_only_what_is_kept_higher_stands_in_its_table(record):
    titles = {section.title: section for section in sections(record, [])}
    kept = titles["Layers kept higher"].grid.rows
    assert [row[0] for row in kept] == ["model.embed_tokens", "model.layers.0.mlp.down_proj"]
    assert len(titles["All layers"].grid.rows) == 3
    all_four = dataclasses.replace(record, layers=record.layers[1:2])
    assert "Layers kept higher" not in {section.title for section in sections(all_four, [])}
