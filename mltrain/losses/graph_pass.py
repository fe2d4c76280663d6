"""Simplification of the graph of a loss between its derivation and the generation of code."""

from __future__ import annotations

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node


class Simplify(CustomGraphPass):
    """Compute equal expressions once, and drop the zeros that carry derivatives (`formula._with_slope`)."""

    def __call__(self, graph: Graph) -> None:
        first: dict[tuple[object, str, str], Node] = {}
        for node in list(graph.nodes):
            if node.op == "call_function":
                same = first.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
                if same is not node:
                    node.replace_all_uses_with(same)
                    graph.erase_node(node)
        for node in list(graph.nodes):
            if node.target is torch.ops.aten.add.Tensor and _is_carrier(node.args[1]):
                node.replace_all_uses_with(node.args[0])
        graph.eliminate_dead_code()

    def uuid(self) -> object:
        return get_hash_for_files((__file__,))


def _is_carrier(product: object) -> bool:
    """Return whether this is ``slope * (x - x)``."""
    if not isinstance(product, Node) or product.target is not torch.ops.aten.mul.Tensor:
        return False
    zero = product.args[1]
    return isinstance(zero, Node) and zero.target is torch.ops.aten.sub.Tensor and zero.args[0] is zero.args[1]
