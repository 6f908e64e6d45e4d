# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import socket

import pytest

import prosparse as ps
from prosparse.errors import UserError
from prosparse.serving import run, transformers_server, vllm_server
from tests.conftest import byte_tokenizer, tiny_llama


@pytest.fixture
def started(monkeypatch):
    """What would have been started: the engine and what it was given; all packages are there."""
    calls = []
    monkeypatch.setattr(
        vllm_server, "run_vllm", lambda *given: calls.append(("vllm", *map(str, given)))
    )
    monkeypatch.setattr(
        transformers_server,
        "run_transformers",
        lambda *given: calls.append(("transformers", *map(str, given))),
    )
    monkeypatch.setattr(run, "SERVER_PACKAGES", ())
    return calls


@pytest.fixture
def with_vllm(monkeypatch):
    """Let vLLM seem to be installed, or not."""

    def pretend(is_there: bool) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: (is_there or None) if name == "vllm" else real(name, *rest),
        )

    return pretend


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_auto_is_vllm_where_it_is(started, with_vllm, relu_checkpoint, port):
    with_vllm(True)
    ps.serve(relu_checkpoint, port=port, max_tokens=4, engine_arguments=["--enforce-eager"])
    assert started == [
        (
            "vllm",
            str(relu_checkpoint),
            "127.0.0.1",
            str(port),
            "float32",
            "4",
            "['--enforce-eager']",
        )
    ]


def test_auto_is_transformers_where_vllm_is_not(started, with_vllm, relu_checkpoint, port):
    with_vllm(False)
    ps.serve(relu_checkpoint, port=port, dtype="bfloat16")
    assert started == [
        ("transformers", str(relu_checkpoint), "127.0.0.1", str(port), "bfloat16", "auto", "8")
    ]


@pytest.mark.parametrize(
    "published",
    [
        {
            "model_type": "sparsellama",  # ProSparse-LLaMA2's own format
            "architectures": ["SparseLlamaForCausalLM"],
            "hidden_act": "fatrelu",
            "hidden_act_param": 0.01,
        },
        {"hidden_act": "fatrelu_0.01"},
    ],
)
def test_what_vllm_cannot_read_goes_to_transformers(started, with_vllm, tmp_path, port, published):
    with_vllm(True)
    tiny_llama(hidden_act="relu").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **published}))
    ps.serve(tmp_path, port=port)
    assert started[0][0] == "transformers"
    with pytest.raises(UserError, match="vLLM does not know the format of "):
        ps.serve(tmp_path, port=port, engine="vllm")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tgi"}, "--engine must be one of auto, vllm, transformers; found 'tgi'"),
        ({"dtype": "int3"}, "--dtype must be one of"),
        ({"max_tokens": 17}, "--max-tokens must be from 1 to 16; found 17"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"port": 70000}, "--port must be from 1 to 65535"),
        ({"host": "no.such.host.invalid"}, "Cannot listen on no.such.host.invalid"),
        ({"engine": "vllm"}, "vLLM is not installed"),
        ({"engine_arguments": ["--x"]}, "'--x' is for vLLM, which does not serve here"),
    ],
)
def test_mistakes(started, with_vllm, relu_checkpoint, port, options, words):
    with_vllm(False)
    with pytest.raises(UserError, match=words):
        ps.serve(relu_checkpoint, **{"port": port, **options})
    assert started == []


def test_a_dense_model_has_nothing_to_skip(started, checkpoint, port):
    with pytest.raises(UserError, match="is silu, which gives no zeros to skip"):
        ps.serve(checkpoint, port=port)


def test_a_port_that_is_taken(started, relu_checkpoint):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="Cannot listen on 127.0.0.1, port"),
    ):
        ps.serve(relu_checkpoint, port=taken.getsockname()[1])


def test_a_device_is_not_for_vllm(started, with_vllm, relu_checkpoint, port):
    with_vllm(True)
    with pytest.raises(UserError, match="--device is for transformers"):
        ps.serve(relu_checkpoint, port=port, device="cpu")


def test_packages_that_are_missing_are_named(
    started, monkeypatch, with_vllm, relu_checkpoint, port
):
    with_vllm(False)
    monkeypatch.setattr(run, "SERVER_PACKAGES", ("no_such_package", "json"))
    with pytest.raises(UserError, match=r"no_such_package.*pip install 'prosparse\[serve\]'"):
        ps.serve(relu_checkpoint, port=port)
