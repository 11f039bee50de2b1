"""Which nodes of an ONNX graph became one, told from the graph that ONNX Runtime made of it.

A fused node keeps a tensor's name: of its output, or in its own name where memory is laid out anew
around it. What made that tensor in the file, and whatever before it no other node makes, is in the
node; so is what comes after it and is made by none, as the addition of a residual block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

BLOCKED = "_nchwc"  # ends the name of a node in the blocked layout, after the tensor's name
REORDER = "Reorder"  # begins the types of nodes that only lay out memory


def fused_nodes(original: Any, optimized: Any, inputs: Iterable[str]) -> list[str]:
    """The names of the file's nodes that run as one, as '/conv1/Conv + /act1/Relu'.

    Args:
        original: the file's graph, an ``onnx.GraphProto``.
        optimized: what the runtime made of it.
        inputs: names of the graph's inputs. What does not depend on them is constant.
    """
    nodes = _depending(original.node, set(inputs))
    maker = {output: i for i, node in enumerate(nodes) for output in node.output}
    makes: set[int] = set()
    for node in optimized.node:
        if not node.op_type.startswith(REORDER):
            known = [t for t in (node.name.removesuffix(BLOCKED), *node.output) if t in maker]
            makes.update(maker[t] for t in known[:1])
    read = Counter(tensor for node in nodes for tensor in node.input)
    # Backward from each: a node that only one reads is in that one.
    group = {i: i for i in makes}
    for i in range(len(nodes) - 1, -1, -1):
        for tensor in nodes[i].input if i in group else ():
            if tensor in maker and read[tensor] == 1 and _takes_in(nodes[i], nodes[maker[tensor]]):
                group.setdefault(maker[tensor], group[i])
    # Forward: any other is in the last one that it reads.
    for i, node in enumerate(nodes):
        before = [group[maker[t]] for t in node.input if t in maker and maker[t] in group]
        if i not in group and before:
            group[i] = max(before)
    members: dict[int, list[str]] = {}
    for i in sorted(group):
        members.setdefault(group[i], []).append(nodes[i].name)
    return [" + ".join(names) for names in members.values() if len(names) > 1]


def _takes_in(node: Any, before: Any) -> bool:
    """A convolution takes in what comes after it, and of what comes before it only padding."""
    return node.op_type != "Conv" or before.op_type == "Pad"


def _depending(nodes: Iterable[Any], known: set[str]) -> list[Any]:
    """Nodes in order that depend on these tensors."""
    found = []
    for node in nodes:
        if known.intersection(node.input):
            known.update(node.output)
            found.append(node)
    return found
