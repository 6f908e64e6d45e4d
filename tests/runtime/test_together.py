# SPDX-License-Identifier: Apache-2.0
"""Projections of one input are launched together in compiled code, and nothing else is changed."""

import shutil

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from prosparse.kernels.linear import linear
from prosparse.runtime.compiled import compile_step
from prosparse.runtime.few_tokens import plain_linears, swap_in
from prosparse.runtime.together import LaunchTogether

LINEARS = torch.ops.prosparse.linears.default


def merged(function, *inputs):
    traced = make_fx(function, tracing_mode="fake")(*inputs)
    LaunchTogether()(traced.graph)
    traced.graph.lint()
    traced.recompile()
    return traced, [len(n.args[1]) for n in traced.graph.nodes if n.target is LINEARS]


def weights(*rows):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 8, generator=generator) for count in rows]


def test_three_projections_of_one_input_are_one_call():
    def attention(x, q, k, v, o, bias):
        parts = [linear(x.view(-1, 8), w, b) for w, b in ((q, None), (k, bias), (v, None))]
        return linear(torch.cat(parts, dim=1)[:, :8].contiguous(), o)

    inputs = (torch.randn(1, 2, 8), *weights(6, 4, 5, 3), torch.randn(4))
    traced, calls = merged(attention, *inputs)
    assert calls == [3, 1]
    torch.testing.assert_close(traced(*inputs), attention(*inputs))


def test_more_than_a_launch_takes_are_several():
    def step(x, *rows):
        return [linear(x, w) for w in rows]

    inputs = (torch.randn(2, 8), *weights(1, 2, 3, 4))
    traced, calls = merged(step, *inputs)
    assert calls == [3, 1]
    torch.testing.assert_close(traced(*inputs), step(*inputs))


def test_other_inputs_and_computed_weights_stay_apart():
    def step(x, y, q, k):
        return linear(x, q), linear(y, k), linear(x, k * 2)

    inputs = (torch.randn(2, 8), torch.randn(2, 8), *weights(3, 4))
    traced, calls = merged(step, *inputs)
    assert calls == [1, 1, 1]
    torch.testing.assert_close(traced(*inputs), step(*inputs))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(8, 6, bias=False), nn.Linear(8, 4)
        self.v_proj = nn.Linear(8, 4)

    def forward(self, x):
        return self.q_proj(x).sum() + (self.k_proj(x) * self.v_proj(x)).sum()


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_inductor_takes_it(monkeypatch):
    seen = []
    call = LaunchTogether.__call__

    def watched(self, graph):
        call(self, graph)
        seen.append([len(node.args[1]) for node in graph.nodes if node.target is LINEARS])

    monkeypatch.setattr(LaunchTogether, "__call__", watched)
    torch.manual_seed(0)
    model = Attention().requires_grad_(False)
    x = torch.randn(1, 2, 8)
    expected = model(x)
    for projection in plain_linears(model.modules()):
        swap_in(projection, max_tokens=4)
    # Code from the cache would not run the pass again.
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        found = compile_step(model.forward, "default", torch.device("cpu"))(x)
    torch.testing.assert_close(found, expected)
    assert seen == [[3]]
