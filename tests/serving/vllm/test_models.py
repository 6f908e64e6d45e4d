# SPDX-License-Identifier: Apache-2.0
import pytest
from transformers import AutoConfig

from prosparse.errors import UserError
from prosparse.model.families import FAMILIES

pytest.importorskip("vllm")

from prosparse.serving.vllm.models import dense_activation, sparse_family, sparse_version


def test_a_config_names_one_of_our_activations_or_is_left_alone():
    llama = AutoConfig.for_model("llama")
    assert sparse_family(llama) is None
    llama.hidden_act = "fatrelu"
    assert sparse_family(llama) is FAMILIES["llama"]
    gemma = AutoConfig.for_model("gemma2", hidden_activation="relu")
    assert sparse_family(gemma) is FAMILIES["gemma2"]


def test_a_family_that_is_not_known():
    config = AutoConfig.for_model("mamba")
    config.hidden_act = "relu"
    assert sparse_family(config) is None
    config.hidden_act = "fatrelu"
    with pytest.raises(UserError, match="'mamba' model names fatrelu"):
        sparse_family(config)


def test_a_text_model_inside_another():
    config = AutoConfig.for_model("gemma3", text_config={"hidden_activation": "relu"})
    config.text_config.model_type = "gemma3_text"
    with pytest.raises(UserError, match="save that alone"):
        sparse_family(config)


@pytest.mark.parametrize(
    ("model_type", "key", "inside"),
    [
        ("llama", "hidden_act", "silu"),
        ("gemma2", "hidden_activation", "gelu_pytorch_tanh"),
        ("opt", "activation_function", "relu"),
    ],
)
def test_vllm_sees_a_dense_activation_only_while_it_builds(model_type, key, inside):
    config = AutoConfig.for_model(model_type)
    setattr(config, key, "fatrelu")
    with dense_activation(config, FAMILIES[model_type]):
        assert getattr(config, key) == inside
    assert getattr(config, key) == "fatrelu"


def test_one_subclass_for_a_class_with_its_name():
    from torch import nn

    class Stock(nn.Module):
        pass

    assert sparse_version(Stock) is sparse_version(Stock)
    assert sparse_version(Stock).__name__ == "Stock"
