"""Concatenations without copies: each part is written where the whole is to lie."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import fx

from passband.chain.graph import argument


@dataclass(frozen=True)
class Slot:
    """Channels of a concatenation's maps.

    Args:
        whole: The concatenation, which no other one holds.
        first: The first of the channels.
    """

    whole: fx.Node
    first: int


def parts_of(concatenation: fx.Node) -> list[fx.Node]:
    """The values that it puts together, in order, of which one may come twice."""
    return list(argument(concatenation, 0, "tensors"))


def slots(nodes: list[fx.Node], channels: dict[fx.Node, int]) -> dict[fx.Node, Slot]:
    """Where concatenations and their parts are to be written.

    A part that several concatenations hold is written where the last of them wants it. An earlier
    one of the same parts in that order, as of a dense block, is some channels of the later one;
    another one has to copy.

    Args:
        nodes: Of the graph, in its order.
        channels: Of each value.
    """
    found: dict[fx.Node, Slot] = {}
    for node in reversed(nodes):
        if node.target is not torch.cat:
            continue
        parts = parts_of(node)
        firsts = [0, *accumulate(channels[part] for part in parts)][:-1]
        begin = found.get(parts[0])
        if node not in found and begin is not None:
            wanted = [Slot(begin.whole, begin.first + first) for first in firsts]
            if [found.get(part) for part in parts] == wanted:
                found[node] = begin
                continue
        slot = found.setdefault(node, Slot(node, 0))
        for part, first in zip(parts, firsts, strict=True):
            found.setdefault(part, Slot(slot.whole, slot.first + first))
    return found
