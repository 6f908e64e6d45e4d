# SPDX-License-Identifier: Apache-2.0
"""A tiny Llama of bytes, as a checkpoint on disk, and text to train and measure it on."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the hub must fail at once

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Tests run side by side on two cores: threads of one would only get in the way of the other's.
torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte, and `<|endoftext|>` as eos."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = ["<|endoftext|>", *alphabet]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama(**overrides) -> LlamaForCausalLM:
    """Return a random float32 Llama of two layers, the same each time."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 257,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,  # large enough that gates are well away from zero
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})).eval()


def write_documents(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A SiLU Llama checkpoint with its tokenizer; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def relu_checkpoint(tmp_path_factory) -> Path:
    """The same with ReLU; do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "llama-relu"
    tiny_llama(hidden_act="relu").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> dict[str, Path]:
    """Two JSONL files by name, a few thousand bytes each."""
    folder = tmp_path_factory.mktemp("texts")
    prose = [f"The number {n} follows {n - 1} and comes before {n + 1}. " * 3 for n in range(60)]
    code = [f"def add_{n}(x):\n    return x + {n}\n" * 4 for n in range(60)]
    return {
        "prose": write_documents(folder / "prose.jsonl", prose),
        "code": write_documents(folder / "code.jsonl", code),
    }


@pytest.fixture
def recipe_data(checkpoint, texts, tmp_path) -> dict:
    """A recipe of six steps as plain data: tests change what they are about."""
    return {
        "model": str(checkpoint),
        "out": str(tmp_path / "run"),
        "data": {
            "context_length": 32,
            "components": {name: {"path": str(path)} for name, path in texts.items()},
        },
        "training": {
            "learning_rate": 1e-3,
            "micro_batch_size": 2,
            "precision": "float32",
            "log_every": 1,
            "save_every": 2,
        },
        "regularization": {
            "stages": [
                {"until": 2, "factor": 0},
                {"until": 4, "factor": 0.1},
                {"until": 6, "factor": 1.0},
            ]
        },
        "measure": {
            "tokens": 128,
            "data": {name: {"path": str(path)} for name, path in texts.items()},
        },
        "threshold": {"candidates": [0.01, 0.1], "max_perplexity_increase": 0.05},
        "sample": {"prompt": "def", "tokens": 4},
    }
