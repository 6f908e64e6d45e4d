# SPDX-License-Identifier: Apache-2.0
"""Dataclasses become plain data and come back the same; wrong data is one clear sentence."""

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prosparse.errors import UserError
from prosparse.records.codec import decode, encode
from prosparse.records.files import KINDS
from prosparse.records.sparsity import Activation


@dataclass(frozen=True, slots=True)
class Leaf:
    count: int
    share: float = 0.5
    name: str | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UserError(f"count must be >= 0; found {self.count}.")


@dataclass(frozen=True, slots=True)
class Tree:
    leaf: Leaf
    numbers: tuple[float, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = field(default_factory=dict)
    maybe: Leaf | None = None
    mode: Literal["a", "b"] = "a"
    is_on: bool = False
    anything: dict[str, Any] = field(default_factory=dict)


def equal(a: Any, b: Any) -> bool:
    """Compare with NaN equal to itself."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if dataclasses.is_dataclass(a):
        names = [f.name for f in dataclasses.fields(a)]
        return type(a) is type(b) and all(equal(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def through_json(cls: type, value: Any) -> Any:
    return decode(cls, json.loads(json.dumps(encode(value), allow_nan=False)), "file.json")


leaves = st.builds(Leaf, count=st.integers(0), share=st.floats())
trees = st.builds(
    Tree,
    leaf=leaves,
    numbers=st.lists(st.floats()).map(tuple),
    leaves=st.lists(leaves, max_size=3).map(tuple),
    by_name=st.dictionaries(st.text(max_size=5), leaves, max_size=3),
    maybe=st.none() | leaves,
    anything=st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(trees)
def test_a_tree_comes_back_the_same(tree):
    back = through_json(Tree, tree)
    assert equal(dataclasses.replace(back, by_name={}), dataclasses.replace(tree, by_name={}))
    assert list(back.by_name) == list(tree.by_name)
    assert all(equal(back.by_name[name], leaf) for name, leaf in tree.by_name.items())


def anything_like(hint: Any) -> st.SearchStrategy:
    """Draw values of a record's type, small ones."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{name: anything_like(field) for name, field in hints.items()})
    if origin is tuple:
        return st.lists(anything_like(args[0]), max_size=2).map(tuple)
    if origin is dict:
        values = st.just("x") if args[1] is Any else anything_like(args[1])
        return st.dictionaries(st.text(max_size=2), values, max_size=2)
    if origin is Literal:
        return st.sampled_from(args)
    if type(None) in args:
        return st.none() | st.one_of(*(anything_like(arg) for arg in args if arg is not type(None)))
    scalars = {
        bool: st.booleans(),
        float: st.floats(),
        int: st.integers(),
        str: st.text(max_size=3),
    }
    return scalars[hint]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_kind_of_record_comes_back_the_same(kind, data):
    record = data.draw(anything_like(KINDS[kind]))
    assert record.kind == kind
    assert equal(through_json(KINDS[kind], record), record)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_non_finite_numbers_are_spelled_out(value):
    encoded = encode(Leaf(1, share=value))
    assert encoded["share"] == str(value)
    assert equal(decode(Leaf, encoded, "f").share, value)


def test_one_number_and_a_list_of_them_are_told_apart():
    for param in (None, 0.5, (0.5, 0.25)):
        activation = Activation("fatrelu", param)
        assert through_json(Activation, activation) == activation
    with pytest.raises(UserError, match=r"param\[1\] must be a number; found 'b'"):
        decode(Activation, {"name": "fatrelu", "param": [0.5, "b"]}, "f.json")


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert decode(Leaf, {"count": 1, "share": "5e-3"}, "r.yaml").share == 0.005
    assert decode(Leaf, {"count": 1, "share": 2}, "r.yaml").share == 2.0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "f.yaml must be a mapping, found [1]."),
        (None, "f.yaml must be a mapping, found None."),
        ({}, "f.yaml lacks the required key 'leaf'."),
        ({"leaf": {}}, "f.yaml: leaf lacks the required key 'count'."),
        (
            {"leaf": {"cuont": 1}},
            "f.yaml: leaf.cuont is not a known key. Did you mean 'count'? "
            "Valid keys: count, share, name.",
        ),
        (
            {"leaf": {"zzzz": 1}},
            "f.yaml: leaf.zzzz is not a known key. Valid keys: count, share, name.",
        ),
        ({"leaf": {"count": 1.5}}, "f.yaml: leaf.count must be a whole number; found 1.5."),
        ({"leaf": {"count": True}}, "f.yaml: leaf.count must be a whole number; found True."),
        (
            {"leaf": {"count": 1, "share": "x"}},
            "f.yaml: leaf.share must be a number; found 'x'.",
        ),
        (
            {"leaf": {"count": 1, "share": True}},
            "f.yaml: leaf.share must be a number; found True.",
        ),
        ({"leaf": {"count": 1, "share": None}}, "f.yaml: leaf.share must be a number; found None."),
        ({"leaf": {"count": 1, "name": 3}}, "f.yaml: leaf.name must be text; found 3."),
        ({"leaf": {"count": -1}}, "f.yaml: leaf: count must be >= 0; found -1."),
    ],
)
def test_what_is_wrong_and_where(data, message):
    with pytest.raises(UserError) as caught:
        decode(Tree, data, "f.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("numbers", 3, "numbers must be a list, found 3."),
        ("numbers", [1, "x"], "numbers[1] must be a number; found 'x'."),
        ("leaves", [{"count": 1}, 2], "leaves[1] must be a mapping, found 2."),
        ("leaves", [{"count": 1, "nam": 2}], "leaves[0].nam is not a known key."),
        ("by_name", [], "by_name must be a mapping, found []."),
        ("by_name", {"x": {"count": "1"}}, "by_name.x.count must be a whole number; found '1'."),
        ("maybe", 1, "maybe must be a mapping, found 1."),
        ("mode", "c", "mode must be one of a, b; found 'c'."),
        ("mode", [], "mode must be one of a, b; found []."),
        ("is_on", 1, "is_on must be true or false; found 1."),
        ("is_on", "yes", "is_on must be true or false; found 'yes'."),
    ],
)
def test_what_is_wrong_deeper_down(key, value, message):
    with pytest.raises(UserError) as caught:
        decode(Tree, {"leaf": {"count": 1}, key: value}, "f.yaml")
    assert str(caught.value).startswith(f"f.yaml: {message}")


def test_long_values_are_cut_in_messages():
    with pytest.raises(UserError) as caught:
        decode(Tree, {"leaf": ["x" * 500]}, "f.yaml")
    assert len(str(caught.value)) < 120
