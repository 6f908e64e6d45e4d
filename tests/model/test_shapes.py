# SPDX-License-Identifier: Apache-2.0
import pytest

from prosparse.errors import UserError
from prosparse.model.shapes import SHAPES, model_shape, parse_shapes


def test_shapes_come_by_name_and_by_size():
    named, sized = parse_shapes(["llama2-7b", "64x192"])
    assert (named.d_model, named.d_ff) == (4096, 11008)
    assert (sized.name, sized.d_model, sized.d_ff) == ("64x192", 64, 192)


@pytest.mark.parametrize("names", [[], ["llama3"], ["64"], ["0x64"], ["64x-1"], ["8x8", "8x8"]])
def test_other_names_are_user_errors(names):
    with pytest.raises(UserError, match="--shape"):
        parse_shapes(names)


def test_a_bare_ffn_is_no_model():
    assert model_shape("smollm2-135m").num_layers == 30
    with pytest.raises(UserError, match="llama2-13b"):
        model_shape("64x192")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_heads_divide_the_width(shape):
    assert shape.d_model % shape.num_heads == 0
    assert shape.num_heads % shape.num_kv_heads == 0
