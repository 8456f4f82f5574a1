"""What is stored of a converted model: kept coefficients, batch norms of kept channels."""

from collections.abc import Iterator

from torch import Tensor, nn

from passband.convert.frequency.network import FrequencyNetwork, present_channels, widths
from passband.convert.frequency.trace import module_of
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import FrequencyBatchNorm
from passband.spectrum.corner import Corner

_FRESH = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def packed(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state_dict, without what the model does not keep."""
    found = dict(tensors)
    for name, layer in _layers(model):
        found[f"{name}weight"] = layer.kept_coefficients().cpu().contiguous()
        if layer.domain == "channel" and layer.bias is not None:
            found[f"{name}bias"] = tensors[f"{name}bias"][: layer.out_kept].clone()
    for name, index in _norm_channels(model):
        for part in _FRESH.keys() & _parts(name, tensors):
            found[f"{name}{part}"] = tensors[f"{name}{part}"][index].clone()
    return found


def unpacked(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `packed`; the model then keeps what was kept.

    Raises:
        ValueError: The tensors are not of this model.
    """
    found = dict(tensors)
    for name, layer in _layers(model):
        found[f"{name}weight"] = _boxed(name, layer, tensors)
        if layer.domain == "channel" and layer.bias is not None:
            bias = tensors[f"{name}bias"]
            found[f"{name}bias"] = bias.new_zeros(layer.out_size)
            found[f"{name}bias"][: len(bias)] = bias
    for name, index in _norm_channels(model):
        norm = model.get_submodule(name.removesuffix("."))
        for part in _FRESH.keys() & _parts(name, tensors):
            stored = tensors[f"{name}{part}"]
            if len(stored) != len(index):
                raise ValueError(
                    f"{name}{part} has {len(stored)} numbers, and the model keeps {len(index)}"
                )
            whole = stored.new_full((int(getattr(norm, "num_features")),), _FRESH[part])  # noqa: B009
            whole[index] = stored
            found[f"{name}{part}"] = whole
    return found


def _boxed(name: str, layer: FrequencyLayer, tensors: dict[str, Tensor]) -> Tensor:
    """The box of the stored coefficients, of their type; the layer then has room for it."""
    kept, weight = tensors.get(f"{name}kept"), tensors.get(f"{name}weight")
    if kept is None or weight is None:
        raise ValueError(f"there is no {name}kept or no {name}weight")
    count, *extents = kept.tolist()
    fits = len(extents) == len(layer.sizes) and len(weight) == count
    if not fits or any(e > n for e, n in zip(extents, layer.sizes, strict=True)):
        raise ValueError(f"{name}kept is {kept.tolist()}, which does not fit {layer.sizes}")
    layer.make_room(Corner(layer.sizes, tuple(extents), count, layer.order))
    return layer.box_of(weight)


def _layers(model: nn.Module) -> Iterator[tuple[str, FrequencyLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, FrequencyLayer):
            yield f"{name}." if name else "", module


def _norm_channels(model: nn.Module) -> Iterator[tuple[str, list[int]]]:
    """Of each batch norm in the channel domain the channels that are there."""
    if not isinstance(model, FrequencyNetwork):
        return
    found = widths(model)
    for node in model.graph.nodes:
        if isinstance(module_of(model, node), FrequencyBatchNorm):
            yield f"{node.target}.", present_channels(found[node.all_input_nodes[0]])


def _parts(name: str, tensors: dict[str, Tensor]) -> set[str]:
    return {key.removeprefix(name) for key in tensors if key.startswith(name)}
