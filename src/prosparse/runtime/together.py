# SPDX-License-Identifier: Apache-2.0
"""In a compiled step: launch projections of one input together.

A model asks for query, key and value one after another; each of three launches waits for the one
before, though none needs it.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

import prosparse.kernels.linear as kernel

if TYPE_CHECKING:
    from torch.fx import Graph, Node

VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)


class LaunchTogether(CustomGraphPass):
    """Merges calls of `prosparse.kernels.linear.linears` on one input, up to `MAX_TOGETHER` weights."""

    def __call__(self, graph: Graph) -> None:
        """Change the graph in place."""
        by_input: dict[Any, list[Node]] = {}
        for node in graph.nodes:
            if node.target is torch.ops.prosparse.linears.default:
                by_input.setdefault(_input(node), []).append(node)
        for calls in by_input.values():
            for first in range(0, len(calls), kernel.MAX_TOGETHER):
                _merge(graph, calls[first : first + kernel.MAX_TOGETHER])

    def uuid(self) -> Any:
        """Return what compiled code is cached by."""
        return get_hash_for_files((__file__, str(kernel.__file__)))


def _input(call: Node) -> Any:
    """Return what tells the input of a call: views of one tensor in one shape are one input."""
    x = call.args[0]
    if x.target in VIEWS:  # type: ignore[union-attr]
        return (x.args[0], tuple(x.args[1]))  # type: ignore[union-attr, arg-type]
    return x


def _merge(graph: Graph, calls: list[Node]) -> None:
    """Let the first call compute all, and the others' users read from it.

    Weights and biases are inputs of the graph, and so are there before the first call.
    """
    if len(calls) < 2:
        return
    x, _, _, ready = calls[0].args
    weights: list[Any] = [weight for call in calls for weight in call.args[1]]  # type: ignore[union-attr]
    biases: list[Any] = [bias for call in calls for bias in call.args[2]]  # type: ignore[union-attr]
    if any(
        node is not None and node.op not in ("placeholder", "get_attr") for node in weights + biases
    ):
        return
    with graph.inserting_before(calls[0]):
        together = graph.call_function(calls[0].target, (x, weights, biases, ready))  # type: ignore[arg-type]
    together.meta["val"] = [value for call in calls for value in call.meta["val"]]
    place = 0
    for call in calls:
        for user in list(call.users):
            assert user.target is operator.getitem
            index = place + user.args[1]  # type: ignore[operator]
            user.args = (together, index)
        place += len(call.args[1])  # type: ignore[arg-type]
        graph.erase_node(call)
