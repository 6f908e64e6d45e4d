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


def _is_there(node: Any) -> bool:
    """Return whether a node is an input of the graph, or a view of one."""
    if node.target in VIEWS:
        node = node.args[0]
    return node.op in ("placeholder", "get_attr")


def _merge(graph: Graph, calls: list[Node]) -> None:
    """Let the first call compute all, and the others' users read from it.

    Weights, scales and biases are inputs of the graph or views of some (packed values are), and so can
    be there before the first call.
    """
    if len(calls) < 2:
        return
    x, *_, ready = calls[0].args
    weights, scales, biases = (
        [part for call in calls for part in call.args[place]]  # type: ignore[union-attr]
        for place in (1, 2, 3)
    )
    parts: list[Any] = [part for part in (*weights, *scales, *biases) if part is not None]
    if not all(map(_is_there, parts)):
        return
    for part in parts:
        if part.target in VIEWS:
            calls[0].prepend(part)
    with graph.inserting_before(calls[0]):
        together = graph.call_function(calls[0].target, (x, weights, scales, biases, ready))  # type: ignore[arg-type]
    together.meta["val"] = [value for call in calls for value in call.meta["val"]]
    place = 0
    for call in calls:
        for user in list(call.users):
            assert user.target is operator.getitem
            index = place + user.args[1]  # type: ignore[operator]
            user.args = (together, index)
        place += len(call.args[1])  # type: ignore[arg-type]
        graph.erase_node(call)
