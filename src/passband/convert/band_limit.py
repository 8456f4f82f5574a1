"""Band-limited convolutions: the handler of `BandLimit`, and its two knobs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from passband.config import BandLimit
from passband.convert.convolutions import PARAMETRIZED, Block, LayerHandler, Reason
from passband.convert.handler import become, register_handler
from passband.convert.memory import fuse
from passband.measure.layers import ExampleInput, LayerUse, call_model, undisturbed
from passband.measure.macs import (
    TRANSPOSED,
    BandLimitedConv,
    band_limited_macs,
    explicitly_padded,
)
from passband.measure.table import Column, Table
from passband.nn.band_limited import (
    BAND_ARGUMENTS,
    BandLimitedConv1d,
    BandLimitedConv2d,
    BandLimitedConv3d,
)
from passband.nn.fused_class import fused_settings, unfuse
from passband.ops.band_limited_conv.op import IMPLEMENTATIONS
from passband.ops.band_limited_conv.select import check_algorithm
from passband.spectrum.band import check_band_arguments
from passband.spectrum.energy import coefficient_energies, smallest_band

_BAND_LIMITED: dict[type[nn.Module], type[Any]] = {
    nn.Conv1d: BandLimitedConv1d,
    nn.Conv2d: BandLimitedConv2d,
    nn.Conv3d: BandLimitedConv3d,
}

_SUBCLASS_KEY = "_subclass_before_conversion"
_CALLED = {"__call__", "__getattr__", "__setattr__", "__setstate__"}

LEAST_GAIN = 128
"""Without shapes, a layer is converted from here on: C/groups * (taps / stride points - 1).

Per pair of channels and output point the plain convolution multiplies taps / stride points times
and the product of spectra about once; what is saved, over all channels, has to pay for the two
transforms, about 120 multiplications per channel and point at compression 0.5 on a 32 x 32 map. A
3 x 3 layer of stride 1 reaches it with 16 input channels.
"""

TRANSPOSED_REASON = Reason("transposed", "transposed convolutions are not supported")
SUBCLASS = Reason("subclass", "a subclass of torch's layer that changes some of it")
LAZY = Reason("lazy", "a lazy layer without weights yet: run the model once, then convert")
OWN_FORWARD = Reason("own forward", "its forward method has been replaced")
NOT_REAL = Reason("not real", "its weight is not of a real floating type")
ONE_POINT = Reason("1x1", "a kernel of one point: no product to shrink")
DEPTHWISE = Reason(
    "depthwise", "nothing is summed over channels: the transforms cost more than they save"
)
FEW_CHANNELS = Reason(
    "few channels",
    f"channels per group x (taps / stride points - 1) is less than {LEAST_GAIN}; give "
    "example_input to have multiplications counted instead",
)
NO_GAIN = Reason("no gain", "no algorithm multiplies less at this shape")


@register_handler(BandLimit)
class BandLimitHandler(LayerHandler[BandLimit]):
    """Makes torch.nn.Conv1d, 2d and 3d layers band-limited."""

    layer_types = tuple(_BAND_LIMITED.values())

    def __init__(self, config: BandLimit) -> None:
        super().__init__(config)
        check_algorithm(config.algorithm)

    def refusal(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """Only layers of exactly torch's types, with their own weights, on a map the band fits."""
        if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
            return LAZY
        if nn.utils.parametrize.is_parametrized(layer):
            return PARAMETRIZED
        if isinstance(layer, TRANSPOSED):
            return TRANSPOSED_REASON
        if type(layer) not in self.layer_types and _torch_type(type(layer)) is None:
            return SUBCLASS
        if "forward" in layer.__dict__:
            return OWN_FORWARD
        if layer._parameters.get("weight") is None:
            return PARAMETRIZED
        if not next(layer.parameters()).is_floating_point():
            return NOT_REAL
        try:
            candidate = self._candidate(layer)
            for given in use.inputs if use is not None else ():
                candidate.geometry(given.shape[-candidate._axes :])
        except (ValueError, TypeError) as error:
            return Reason("does not fit", str(error))
        return None

    def objection(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """By the fewest multiplications of an algorithm, or without shapes by the channels.

        With `energy` the band depends on values: the full band's multiplications are counted.
        """
        conv = self._candidate(layer)
        taps, channels = math.prod(conv.kernel_size), conv.in_channels // conv.groups
        if taps == 1:
            return ONE_POINT
        if channels == 1 and conv.groups > 1:
            return DEPTHWISE
        if use is None:
            gain = channels * (taps / math.prod(conv.stride) - 1)
            return None if gain >= LEAST_GAIN else FEW_CHANNELS
        fewest = sum(_fewest_macs(conv, tuple(given.shape)) for given in use.inputs)
        return None if fewest < use.native_macs else NO_GAIN

    def convert(self, layer: nn.Module) -> None:
        """Change the layer's class; parameters, hooks and mode are what they were."""
        become(layer, self._candidate(layer))

    @staticmethod
    def revert(layer: nn.Module) -> None:
        """Change the layer's class back."""
        become(layer, _original(layer))

    @staticmethod
    def config_of(layer: nn.Module) -> BandLimit:
        """The band arguments that the layer has now."""
        return BandLimit(**{name: getattr(layer, name) for name in BAND_ARGUMENTS})

    def finish(self, model: nn.Module) -> tuple[Block, ...]:
        """Fuse blocks where the config asks for it."""
        if self.config.memory is None:
            unfuse(model)
            return ()
        return tuple(fuse(model, self.config))

    @classmethod
    def revert_model(cls, model: nn.Module) -> None:
        """Take blocks apart too."""
        unfuse(model)
        super().revert_model(model)

    @classmethod
    def description(cls, model: nn.Module) -> dict[str, Any] | None:
        """The layers, and how blocks are made where there are some."""
        layers, memory = super().description(model), fused_settings(model)
        if layers is None and memory is None:
            return None
        return {"layers": layers or {}, "memory": None if memory is None else list(memory)}

    @classmethod
    def convert_as(cls, model: nn.Module, description: Mapping[str, Any] | None) -> None:
        """The layers, then the blocks."""
        super().convert_as(model, description and description["layers"])
        unfuse(model)
        if description is not None and description["memory"] is not None:
            spectrum_dtype, offload = description["memory"]
            fuse(model, BandLimit(memory="exact", spectrum_dtype=spectrum_dtype, offload=offload))

    def _candidate(self, layer: nn.Module) -> BandLimitedConv:
        """The band-limited layer that shares everything with this one."""
        conv = _original(layer) if type(layer) in self.layer_types else layer
        torch_type = _torch_type(type(conv))
        assert torch_type is not None
        plain = torch_type.__new__(torch_type)
        plain.__dict__.update(conv.__dict__)
        arguments = {name: getattr(self.config, name) for name in BAND_ARGUMENTS}
        candidate: BandLimitedConv = _BAND_LIMITED[torch_type].from_conv(plain, **arguments)
        if type(conv) is not torch_type:
            candidate.__dict__[_SUBCLASS_KEY] = type(conv)
        return candidate


def _original(layer: nn.Module) -> nn.Module:
    """The layer that a band-limited one was made from, of the class it had."""
    assert isinstance(layer, BandLimitedConv)
    conv = layer.to_conv()
    conv.__class__ = conv.__dict__.pop(_SUBCLASS_KEY, type(conv))
    return conv


def _torch_type(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The torch convolution that a class is, or is a subclass of that changes nothing of it.

    Such a subclass has a constructor of its own, and methods that torch's layer does not have.
    """
    for position, base in enumerate(kind.__mro__):
        if base in _BAND_LIMITED:
            added = kind.__mro__[:position]
            changed = {n for c in added for n in vars(c) if n in _CALLED or not n.startswith("__")}
            same = all(issubclass(c, base) for c in added) and not changed & set(dir(base))
            return base if same else None
    return None


def set_compression(model: nn.Module, compression: float) -> None:
    """Set the compression of every band-limited layer, in training or between calls.

    The weights stay; a model can be tested at another compression than it was trained at.

    Args:
        model: A model with band-limited layers.
        compression: Fraction of the half-spectrum to discard, 0 <= c < 1.

    Raises:
        ValueError: The compression is outside its range, or there is no band-limited layer.

    Examples:
        >>> import passband as pb
        >>> model = nn.Sequential(pb.BandLimitedConv2d(8, 8, 3, compression=0.5))
        >>> set_compression(model, 0.7)
        >>> model[0].compression
        0.7
    """
    check_band_arguments(compression, None, None)
    for layer in _band_limited_layers(model).values():
        layer.set_band(compression=compression)


def calibrate(
    model: nn.Module,
    batches: Iterable[Tensor | Sequence[Any] | Mapping[str, Any]],
    energy: float = 0.95,
) -> Table:
    """Give every band-limited layer the fixed band that holds an energy of its own inputs.

    The model runs over the batches at full band, in evaluation mode and without gradients; each
    layer's spectral energies are summed over them, and it then keeps the smallest band with at
    least the fraction `energy` (Dziedzic et al. 2019, section 6.2.5: a fixed band trains better
    than one that follows each batch). A layer that did not run keeps the band it had.

    Args:
        model: A model with band-limited layers.
        batches: A few batches: tensors, tuples or lists of which the first entry is the input, as
            a DataLoader of images and labels gives, or mappings of keyword arguments.
        energy: Fraction of the energy to keep, 0 < energy <= 1.

    Returns:
        A table of the layers that ran: layer, grid, band, realised_compression, energy (kept).

    Raises:
        ValueError: The energy is outside its range, there is no band-limited layer or no batch, or
            a layer is given maps of several sizes, for which one band has no meaning.

    Examples:
        >>> import passband as pb
        >>> model = nn.Sequential(pb.BandLimitedConv1d(2, 4, 5, energy=0.9))
        >>> print(calibrate(model, [torch.ones(1, 2, 40)], energy=0.9))
        layer  grid  band     cut   energy
        -----  ----  ----  ------  -------
        0      40    1     95.2 %  100.0 %
        >>> model[0].band, model[0].energy
        ((1,), None)
    """
    check_band_arguments(None, energy, None)
    layers = _band_limited_layers(model)
    before = {name: (c.compression, c.energy, c.band) for name, c in layers.items()}
    sums: dict[str, tuple[tuple[int, ...], Tensor]] = {}
    handles = [
        layer.register_forward_pre_hook(_energy_hook(name, sums), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        for layer in layers.values():
            layer.set_band()
        with undisturbed(model), torch.no_grad():
            for batch in batches:
                call_model(model, model_input(batch))
    finally:
        for handle in handles:
            handle.remove()
        for name, layer in layers.items():
            compression, old_energy, band = before[name]
            layer.set_band(compression=compression, energy=old_energy, band=band)
    if not sums:
        raise ValueError("batches is empty, or none of the band-limited layers ran; give a few")
    rows = []
    for name, (grid, energies) in sums.items():
        found = smallest_band(energies, grid, energy).band
        layers[name].set_band(band=found.kept)
        kept, total = float(energies[found.mask(energies.device)].sum()), float(energies.sum())
        rows.append(
            {
                "layer": name or "(model)",
                "grid": "x".join(map(str, grid)),
                "band": "x".join(map(str, found.kept)),
                "realised_compression": found.realised_compression,
                "energy": 1.0 if total == 0 else kept / total,
            }
        )
    columns = (
        Column("layer", "name"),
        Column("grid"),
        Column("band"),
        Column("realised_compression", "fraction", "cut"),
        Column("energy", "fraction"),
    )
    return Table(columns, rows)


def _band_limited_layers(model: nn.Module) -> dict[str, BandLimitedConv]:
    layers = {n: m for n, m in model.named_modules() if isinstance(m, BandLimitedConv)}
    if not layers:
        raise ValueError(
            "model has no band-limited layer; make some with passband.convert(model, ...)"
        )
    return layers


def _energy_hook(
    name: str, sums: dict[str, tuple[tuple[int, ...], Tensor]]
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A hook that adds the spectral energies of a layer's input to those it has had before."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(layer, BandLimitedConv)
        maps = args[0] if args else kwargs["input"]
        grid = layer.geometry(maps.shape[-layer._axes :]).grid
        known, energies = sums.get(name, (grid, 0))
        if known != grid:
            raise ValueError(
                f"layer {name} is given maps of several sizes, on grids of {known} and {grid} "
                "points; use batches of one size"
            )
        added = coefficient_energies(explicitly_padded(layer, maps), grid).double()
        sums[name] = (grid, energies + added)

    return hook


def model_input(batch: Tensor | Sequence[Any] | Mapping[str, Any]) -> ExampleInput:
    """What of a loader's batch the model is called with."""
    return batch if isinstance(batch, (Tensor, Mapping)) else batch[0]


def _fewest_macs(conv: BandLimitedConv, input_shape: tuple[int, ...]) -> int:
    geometry = conv.geometry(input_shape[-conv._axes :])
    return min(
        band_limited_macs(conv, geometry, input_shape, algorithm, filters=False)
        for algorithm in IMPLEMENTATIONS
    )
