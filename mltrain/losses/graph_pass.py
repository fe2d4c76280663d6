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
            if node.op != "call_function":
                continue
            same = first.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            if same is not node:
                node.replace_all_uses_with(same)
                graph.erase_node(node)
            elif node.target is torch.ops.aten.sub.Tensor and node.args[0] is node.args[1]:
                for product in list(node.users):
                    for total in list(product.users):
                        value = total.args[0]
                        is_sum = total.target is torch.ops.aten.add.Tensor and total.args[1] is product
                        if is_sum and product.target is torch.ops.aten.mul.Tensor and isinstance(value, Node):
                            total.replace_all_uses_with(value)
        graph.eliminate_dead_code()

    def uuid(self) -> object:
        return get_hash_for_files((__file__,))
