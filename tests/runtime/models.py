# SPDX-License-Identifier: Apache-2.0
"""Tiny ReLU models, and what they say."""

import torch

from prosparse.model.activation import make_activation
from prosparse.model.relufy import relufy_in_place
from tests.model.tiny import tiny_model, tiny_tokens

# Gated, gated with another config key, fused, plain without an FFN module, Conv1D, a Linear of
# its own kind, a residual inside the FFN.
FAMILIES = ["llama", "qwen3", "gemma2", "phi3", "opt", "gpt2", "falcon", "bloom"]
ACTIVATIONS = [
    make_activation("relu"),
    make_activation("fatrelu", threshold=0.1),
    make_activation("shifted_relu", bias=0.1),
]


def relu_model(model_type="llama", activation=ACTIVATIONS[0], **overrides):
    model = tiny_model(model_type, **overrides)
    relufy_in_place(model, activation)
    return model


def logits(model, tokens=None):
    with torch.no_grad():
        return model(tiny_tokens(6) if tokens is None else tokens, use_cache=False).logits
