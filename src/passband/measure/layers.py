"""One forward pass of a model, and what each of its layers computes and keeps in it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from passband.measure.macs import (
    COUNTED,
    BandLimitedConv,
    band_limited_macs,
    call_geometry,
    layer_macs,
)
from passband.measure.memory import SavedBytes
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import CoefficientConv2d
from passband.nn.probes import probe
from passband.nn.specnet import SpectralConv
from passband.nn.spectral_map import SpectralMap

ExampleInput: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a model is called with: one tensor, positional arguments, or keyword arguments."""


@dataclass
class LayerUse:
    """What one layer did in a forward pass, all its calls together.

    Multiply-accumulates leave out the transform of a band-limited layer's filters, which evaluation
    keeps from call to call and training does once per batch.
    """

    inputs: list[Tensor]
    """What it was called with, without values: tensors of the meta device."""
    macs: int = 0
    native_macs: int = 0
    """Those of the torch layer it stands for."""
    saved_bytes: int = 0
    """Kept for the backward pass by this layer alone."""
    realised_compression: float | None = None
    """Fraction of the spectrum that its band, or its threshold, discards; None without."""
    algorithm: str | None = None
    """Algorithm of a band-limited layer; "spectrum" or "map" for where SpecNet's activation is."""
    reason: str | None = None
    """Why it is this one."""


@dataclass(frozen=True)
class ModelUse:
    """What a model did in a forward pass."""

    layers: dict[str, LayerUse]
    """By name, convolutions and linear layers that ran."""
    saved_bytes: int
    """Kept for the backward pass by the whole model, each storage counted once."""
    saved: SavedBytes
    """The same by modules."""


def named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions and linear layers of a model, each once, by its first name.

    The name of the model itself, if it is such a layer, is "".
    """
    return ((name, m) for name, m in model.named_modules() if isinstance(m, COUNTED))


def call_model(model: nn.Module, example_input: ExampleInput) -> Any:
    """Call a model with an example: a tensor, positional arguments, or keyword arguments."""
    if isinstance(example_input, Tensor):
        return model(example_input)
    if isinstance(example_input, Mapping):
        return model(**example_input)
    return model(*example_input)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module's mode and torch's generators are as before.

    Examples:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3).eval())
        >>> with undisturbed(model):
        ...     model[0].training
        False
        >>> model[0].training, model[1].training
        (True, False)
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(index for index in devices if index is not None)):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def observe(model: nn.Module, example_input: ExampleInput, training: bool = True) -> ModelUse:
    """Run a model once, in evaluation mode and undisturbed, and watch its layers.

    Nothing is kept for a backward pass: what would be is counted; see `SavedBytes`.

    Args:
        model: The model.
        example_input: What it is called with.
        training: Whether band-limited layers are to say what they run where a backward pass
            follows.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> use = observe(model, torch.zeros(2, 3, 10, 10))
        >>> use.layers["2"].macs, use.layers["2"].saved_bytes, use.saved_bytes
        (73728, 6400, 8800)
    """
    uses: dict[str, LayerUse] = {}
    with ExitStack() as stack:
        for name, layer in named_layers(model):
            hook = probe(_Watch(name, uses, training))
            handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
            if isinstance(layer, SpectralConv):
                stack.callback(layer.register_forward_hook(hook.note_result).remove)
        stack.enter_context(undisturbed(model))
        stack.enter_context(torch.enable_grad())
        saved = stack.enter_context(SavedBytes(model))
        call_model(model, example_input)
    for name, use in uses.items():
        use.saved_bytes = saved.per_module.get(name, 0)
    return ModelUse(uses, saved.total, saved)


@dataclass
class _Watch:
    """Hook that notes a layer's call."""

    name: str
    uses: dict[str, LayerUse]
    training: bool

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs["input"]
        shape = tuple(given.shape)
        use = self.uses.setdefault(self.name, LayerUse([]))
        needed = not isinstance(given, Tensor) or given.requires_grad
        use.inputs.append(torch.empty(shape, device="meta", requires_grad=needed))
        if isinstance(layer, SpectralConv):
            use.algorithm = "map" if layer.on_map else "spectrum"
            use.macs += layer.stage_multiplications(given)
            use.native_macs += layer_macs(layer.to_conv(), shape)
            return
        if not isinstance(layer, BandLimitedConv):
            macs = layer_macs(layer, shape)
            use.macs += macs
            if isinstance(layer, (FrequencyLayer, CoefficientConv2d)):
                use.native_macs += layer.macs(shape, dense=True)
            else:
                use.native_macs += macs
            return
        with torch.no_grad():
            geometry, choice = call_geometry(layer, given, self.training)
        use.algorithm, use.reason = choice.algorithm, choice.reason
        use.macs += band_limited_macs(layer, geometry, shape, use.algorithm, filters=False)
        use.native_macs += layer_macs(layer.to_conv(), shape)
        use.realised_compression = geometry.band.realised_compression

    def note_result(self, layer: nn.Module, args: Any, result: SpectralMap) -> None:
        """Note how much of its spectrum a stage of SpecNet discards, by band and by threshold."""
        self.uses[self.name].realised_compression = 1 - result.density
