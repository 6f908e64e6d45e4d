# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from prosparse.records.inspection import (
    InspectionRecord,
    NeuronActivity,
    NeuronContext,
    NeuronInspection,
    TokenWeight,
)
from prosparse.records.sparsity import Activation
from prosparse.reporting.inspection_sections import contexts_as_text, passage
from prosparse.reporting.page import run_page
from prosparse.reporting.summary import headline
from tests.reporting.conftest import PROVENANCE

CONTEXT = NeuronContext(
    data="code", window=3, position=20, peak=2,
    tokens=("<b>", " x", "\n", " y"), values=(0.0, -0.5, 2.0, 0.01),
)  # fmt: skip


@pytest.fixture
def inspect_record():
    neuron = NeuronInspection(
        layer=4,
        neuron=17,
        data=(
            NeuronActivity("prose", "/prose.jsonl", 300, 0.01, 1.5),
            NeuronActivity("code", "/code.jsonl", 100, 0.05, 2.0),
        ),
        contexts=(CONTEXT,),
        promotes=(TokenWeight(" if", 0.25),),
        suppresses=(TokenWeight("\n", -0.5),),
    )
    return InspectionRecord(
        "/models/a/b", Activation("relu"), "float32", 256, (neuron,), 1.0, PROVENANCE
    )


def test_tokens_are_shaded_by_their_share_of_the_peak():
    words = passage(CONTEXT).words

    assert [word.strength for word in words] == [0.0, -0.25, 1.0, 0.0]
    assert [word.is_peak for word in words] == [False, False, True, False]
    assert words[2].text == "↵"
    assert passage(CONTEXT).caption == "x_1 = 2, code, window 4, token 21"


def test_the_page_marks_and_escapes_tokens(run_folder, inspect_record):
    page = run_page(run_folder(inspect_record))
    html = page.html()

    assert '<mark class="above" style="--strength: 100%" title="2">↵</mark>' in html
    assert '<span class="below" style="--strength: 25%" title="-0.5"> x</span>' in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "\\<b\\> x**↵** (2) y" in page.markdown()
    assert "“ if” | “↵” | +0.250 | -0.500" in page.markdown()


def test_frequency_is_pooled_over_tokens(inspect_record):
    assert headline(inspect_record) == (
        "Among 400 tokens there fires neuron 17 of layer 4 on 2.00 %."
    )


def test_a_dense_model_is_told(inspect_record):
    (neuron,) = inspect_record.neurons
    data = tuple(dataclasses.replace(m, frequency=1.0) for m in neuron.data)
    dense = dataclasses.replace(
        inspect_record,
        activation=Activation("silu"),
        neurons=(dataclasses.replace(neuron, data=data),),
    )
    assert "In a model of silu nothing is exactly zero" in headline(dense)


def test_the_terminal_gets_the_first_contexts(inspect_record):
    (neuron,) = inspect_record.neurons
    assert contexts_as_text(neuron, 5) == ["        2  code: <b> x[↵] y"]
