# SPDX-License-Identifier: Apache-2.0
"""Every published format, once: its config, what its tensors are, x_1 by hand, what it becomes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import relu

from prosparse.records.sparsity import Activation
from tests.model.formats.published import (
    CATS,
    MINICPM_S,
    PROSPARSE_LLAMA2,
    RELU_LLAMA,
    SAKANA,
    TURBO_SPARSE,
)


def fatrelu(t):
    return lambda layer, gate, up: torch.where(gate >= t, gate, 0) * up


def cats(layer, gate, up):
    return torch.where(F.silu(gate).abs() > CATS["thresholds"][layer], F.silu(gate), 0) * up


def swiglu(layer, gate, up):
    return F.silu(gate) * up


def reglu(layer, gate, up):
    return relu(gate) * up


SPELLED = {**RELU_LLAMA, "hidden_act": "fatrelu_0.2"}
SHIFTED = {**RELU_LLAMA, "hidden_act": "shiftrelu_0.2"}
PLAIN_SAKANA = {**SAKANA, "sparsity_gated_mlp": False}
TIED_MINICPM = {**MINICPM_S, "hidden_act": "relu", "hidden_act_param": None}
UNTIED_MINICPM = {**MINICPM_S, "hidden_act_param": 0.2, "tie_word_embeddings": False}

BY_LAYER = {**RELU_LLAMA, "hidden_act": "fatrelu", "hidden_act_param": [0.05, 0.4]}
TEAL = {
    **RELU_LLAMA,
    "hidden_act": "silu",
    "ffn_input_thresholds": {"gate": [0.3, 0.6], "up": [0.5, 0.2], "down": [0.1, 0.3]},
}

# Published config, what its tensors are, x_1 by hand, what it becomes.
CASES = {
    "prosparse-llama2": (
        {**PROSPARSE_LLAMA2, "hidden_act_param": 0.2},
        {"kv_heads": 4},
        fatrelu(0.2),
        ("llama", Activation("fatrelu", 0.2)),
    ),
    "minicpm-s": (
        MINICPM_S,
        {"tied": True},
        fatrelu(0.03),
        ("granite", Activation("fatrelu", 0.03)),
    ),
    "minicpm-s untied": (
        UNTIED_MINICPM,
        {},
        fatrelu(0.2),
        ("granite", Activation("fatrelu", 0.2)),
    ),
    "sparsing-law": (TIED_MINICPM, {"tied": True}, reglu, ("granite", Activation("relu"))),
    "relu-llama": (RELU_LLAMA, {}, reglu, ("llama", Activation("relu"))),
    "sakana": (SAKANA, {}, reglu, ("llama", Activation("relu"))),
    "sakana plain": (
        PLAIN_SAKANA,
        {"gated": False},
        lambda layer, gate, up: relu(up),
        ("arcee", Activation("relu")),
    ),
    "turbosparse": (
        TURBO_SPARSE,
        {},
        lambda layer, gate, up: relu(gate) * relu(up),
        ("mistral", Activation("drelu")),
    ),
    "cats": (CATS, {}, cats, ("mistral", Activation("thresholded_silu", (0.2, 0.5)))),
    "cats relu": ({**CATS, "use_relu": True}, {}, reglu, ("mistral", Activation("relu"))),
    "cats off": (
        {**CATS, "use_sparse_model": False},
        {},
        swiglu,
        ("mistral", Activation("silu")),
    ),
    "fatrelu_<t>": (SPELLED, {}, fatrelu(0.2), ("llama", Activation("fatrelu", 0.2))),
    "shiftrelu_<b>": (
        SHIFTED,
        {},
        lambda layer, gate, up: relu(gate - 0.2) * up,
        ("llama", Activation("shifted_relu", 0.2)),
    ),
    # Not published by others: what step 3 writes by layer, and TEAL's thresholds once they are read.
    "fatrelu by layer": (
        BY_LAYER,
        {},
        lambda layer, gate, up: fatrelu(BY_LAYER["hidden_act_param"][layer])(layer, gate, up),
        ("llama", Activation("fatrelu", (0.05, 0.4))),
    ),
    "teal": (TEAL, {}, swiglu, ("llama", Activation("silu"))),
}
