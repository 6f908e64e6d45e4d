# SPDX-License-Identifier: Apache-2.0
"""A server of its own process, asked as OpenAI's clients ask."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch

import prosparse as ps
from prosparse.model.activation import make_activation
from prosparse.model.relufy import relufy_in_place
from tests.conftest import byte_tokenizer, tiny_llama

for package in ("fastapi", "uvicorn", "openai", "prometheus_client"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "fatrelu"
    network = tiny_llama()
    relufy_in_place(network, make_activation("fatrelu", threshold=0.05))
    network.config.hidden_act_param = [0.05, 0.2]
    network.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model):
    """Its address; stopped as a job is sent away."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prosparse.cli.main", "serve", str(model)]
    command += ["--engine", "transformers", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) in (0, 130)
    assert "Sparse FFNs: 2 on " in process.stdout.read()


def greedy(model, prompt, num_tokens) -> str:
    network, tokenizer = ps.load(model), ps.load_tokenizer(model)
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        new = network.generate(ids, max_new_tokens=num_tokens, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True)


def test_streamed_text_is_the_greedy_one_and_metrics_say_how_sparse(server, model):
    from openai import OpenAI

    client = OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    for prompt in ("The for statement", "a = 3"):
        pieces = client.completions.create(
            model=str(model), prompt=prompt, max_tokens=40, temperature=0, stream=True
        )
        text = "".join(piece.choices[0].text for piece in pieces)
        assert text == greedy(model, prompt, 40)
    with urllib.request.urlopen(f"{server}/metrics") as answer:
        page = answer.read().decode()
    values = dict(re.findall(r"^(prosparse_\S+) (\S+)$", page, re.MULTILINE))
    assert float(values['prosparse_ffn_calls_total{path="sparse"}']) > 90  # published when sampled
    assert (
        float(values['prosparse_ffn_calls_total{path="dense"}']) == 2
    )  # the longer prompt, in two layers
    assert 0 < float(values["prosparse_weights_skipped"]) < float(values["prosparse_sparsity"]) < 1


def test_another_model_is_refused(server):
    from openai import BadRequestError, OpenAI

    client = OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    with pytest.raises(BadRequestError):
        client.completions.create(model="another", prompt="x", max_tokens=1)
