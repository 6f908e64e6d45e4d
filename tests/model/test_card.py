# SPDX-License-Identifier: Apache-2.0
"""The card of a checkpoint says what it is and how it loads."""

import pytest
import yaml

import prosparse as ps
from prosparse.model.activation import make_activation
from prosparse.model.card import model_card
from prosparse.model.relufy import relufy_in_place

IMPORTS_US = "\nimport prosparse\n"


@pytest.fixture
def card(checkpoint):
    """Write the card of the tiny model under an activation."""

    def write(name: str | None = None, notes=(), **numbers) -> str:
        model = ps.load(checkpoint)
        if name is not None:
            relufy_in_place(model, make_activation(name, **numbers))
        return model_card(model, "owner/base", notes)

    return write


def test_relu_loads_anywhere(card):
    text = card("relu")
    assert "**ReLU (`hidden_act: relu`)**" in text
    assert "It loads in stock transformers" in text
    assert IMPORTS_US not in text


@pytest.mark.parametrize(
    ("name", "numbers", "words"),
    [
        ("fatrelu", {"threshold": 0.02}, "FATReLU, x where x >= 0.02, else 0"),
        ("shifted-relu", {"bias": 0.1}, "shifted ReLU, max(x - 0.1, 0)"),
    ],
)
def test_the_others_load_with_prosparse(name, numbers, words, card):
    text = card(name, **numbers)
    assert words in text
    assert f"`hidden_act_param: {next(iter(numbers.values()))}`" in text
    assert IMPORTS_US in text


def test_what_it_is_made_from_and_the_notes(card):
    text = card("relu", ["Trained for 3 steps.", "Sparsity 0.9."])
    assert "from `owner/base`" in text
    assert text.endswith("\nTrained for 3 steps.\nSparsity 0.9.\n")


def test_the_front_matter_is_yaml(card):
    _, front, _ = card("relu").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "tags": ["prosparse", "activation-sparsity"],
    }


def test_a_dense_model_has_a_card_too(card):
    assert "**silu**" in card()
