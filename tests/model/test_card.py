# SPDX-License-Identifier: Apache-2.0
"""The card of a checkpoint says what it is and how it loads."""

import pytest
import yaml

import prosparse as ps
from prosparse.model.activation import make_activation
from prosparse.model.card import model_card
from prosparse.model.checkpoint import save
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
    assert text.endswith("\n## How it was made\n\n1. Trained for 3 steps. Sparsity 0.9.\n")


def test_the_card_of_a_later_step_tells_the_earlier_ones(checkpoint, tmp_path):
    def step(read_from, name, note, caution=""):
        model = ps.load(read_from)
        (tmp_path / name).mkdir()
        save(
            model,
            ps.load_tokenizer(checkpoint),
            tmp_path / name,
            base=str(read_from),
            notes=[note],
            caution=caution,
        )
        return tmp_path / name

    first = step(checkpoint, "first", "Changed.", "Untrained.")
    assert "Untrained." in (first / "README.md").read_text()
    second = step(first, "second", "Trained on 1. prose, 2. code.")
    text = (step(second, "third", "Shifted.") / "README.md").read_text()
    assert f"from `{checkpoint}`." in text
    assert text.endswith("1. Changed.\n2. Trained on 1. prose, 2. code.\n3. Shifted.\n")
    assert "Untrained." not in text


def test_what_lies_on_the_hub_is_named_as_the_base(card, checkpoint):
    assert "\nbase_model: owner/base\n" in card()
    model = ps.load(checkpoint)
    assert "base_model" not in model_card(model, str(checkpoint), [])


def test_the_front_matter_is_yaml(card):
    _, front, _ = card("relu").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "owner/base",
        "tags": ["prosparse", "activation-sparsity"],
    }


def test_a_dense_model_has_a_card_too(card):
    assert "**silu**" in card()
