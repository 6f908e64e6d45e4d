# SPDX-License-Identifier: Apache-2.0
import pytest

from prosparse.errors import UserError
from prosparse.serving.vllm.options import Options, read_options


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Options(8, False)),
        (None, Options(8, False)),
        ({"prosparse_max_tokens": 0, "another": 1}, Options(0, False)),
        ({"prosparse_max_tokens": 16, "prosparse_packed_copy": True}, Options(16, True)),
    ],
)
def test_options(given, expected):
    assert read_options(given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prosparse_max_tokens": -1}, "prosparse_max_tokens must be from 0 to 16; found -1"),
        ({"prosparse_max_tokens": 17}, "found 17"),
        ({"prosparse_max_tokens": "4"}, "found '4'"),
        ({"prosparse_max_tokens": True}, "found True"),
        ({"prosparse_packed_copy": 1}, "must be true or false; found 1"),
    ],
)
def test_mistakes(given, words):
    with pytest.raises(UserError, match=words):
        read_options(given)
