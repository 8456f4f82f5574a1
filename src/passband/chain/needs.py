"""Which channels of each value of a network something reads."""

from torch import fx, nn

from passband.convert.frequency import FrequencyNetwork
from passband.convert.frequency.network import Widths, read_channels
from passband.convert.frequency.trace import concatenated, is_concatenation, module_of
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import ChannelDCT, CoefficientConv2d


def needed_channels(
    network: FrequencyNetwork, live: dict[fx.Node, Widths]
) -> dict[fx.Node, list[int]]:
    """Of each value how many channels of each of its maps something reads.

    Args:
        network: The network.
        live: The channels that its values have.
    """
    needs = {node: [0] * len(blocks) for node, blocks in live.items()}
    for node in reversed(list(network.graph.nodes)):
        module = module_of(network, node)
        for value in node.all_input_nodes:
            if value not in needs:
                continue
            wanted = _wanted(live, node, module, value, needs)
            needs[value] = [max(a, b) for a, b in zip(needs[value], wanted, strict=True)]
    return needs


def _wanted(
    live: dict[fx.Node, Widths],
    node: fx.Node,
    module: nn.Module | None,
    value: fx.Node,
    needs: dict[fx.Node, list[int]],
) -> list[int]:
    """What one reader of a value reads of it."""
    given = [width for _, width in live[value]]
    if isinstance(module, FrequencyLayer):
        read = {position for position, _ in read_channels(module, live[value])}
        wanted, start = [], 0
        for width in given:
            wanted.append(
                max((p - start + 1 for p in read if start <= p < start + width), default=0)
            )
            start += width
        return wanted
    whole = isinstance(module, CoefficientConv2d) and not module.is_depthwise
    if node not in needs or whole or isinstance(module, ChannelDCT):
        return given
    if is_concatenation(node):
        wanted, start = [0] * len(given), 0
        for part in concatenated(node):
            size = len(live[part])
            if part is value:
                own = needs[node][start : start + size]
                wanted = [max(a, b) for a, b in zip(wanted, own, strict=True)]
            start += size
        return wanted
    return [min(a, b) for a, b in zip(given, needs[node], strict=True)]
