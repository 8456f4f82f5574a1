"""Dense blocks of SpecNet: layers each of which reads all maps before it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from passband.nn.fused_parts import takes_batch_statistics
from passband.nn.probes import has_other_hooks
from passband.nn.specnet import SpectralConv, differentiates, tracked_tensors
from passband.nn.spectral_map import Form, Piece, SpectralMap
from passband.nn.spectral_stage import SpectralStage
from passband.ops.spectral.block import run_block
from passband.ops.spectral.block_stages import Block, BlockStage, Reader
from passband.ops.spectral.codec import SPECTRA, Maps
from passband.ops.spectral.sources import StageOptions
from passband.ops.spectral.stage import StoredSpectrum, store
from passband.ops.tracing import (
    STORES,
    is_evaluated_eagerly,
    is_transformed,
    run_uncompiled,
)

MAP_BYTES, SPECTRUM_BYTES = 6 << 20, 12 << 20
"""What all channels of the images in work should not exceed, as maps, and as spectra: then every
few images, filters are transformed."""


@run_uncompiled(STORES)
def dense_block(
    maps: SpectralMap, layers: Sequence[SpectralConv], last: SpectralConv | None = None
) -> SpectralMap:
    """Put the result of each layer beside what it was given: ``maps = cat([maps, layer(maps)])``.

    The layers run together, a few images at a time, so that each spectrum is unpacked once and not
    once for every layer that reads it. Where somebody watches a layer by hooks, batch norm
    averages over processes, or they have nothing in common, they run one by one; the result is the
    same.

    Args:
        maps: What the first layer reads.
        layers: The layers.
        last: A layer that reads all of it, of which the result is what is returned.

    Examples:
        >>> from passband.nn.specnet import SpectralConv2d
        >>> layers = [SpectralConv2d(c, 2, 3, padding=1, activation="relu") for c in (3, 5)]
        >>> maps = SpectralMap.of(torch.randn(4, 3, 8, 8))
        >>> dense_block(maps, layers).shape
        (4, 7, 8, 8)
    """
    if layers:
        layers[0].check_input(maps)
    if layers and _reads_the_padding([piece.form for piece in maps.pieces], layers[0]):
        first, *layers = layers
        maps = SpectralMap.cat([maps, first(maps)])
    together = (*layers, *([] if last is None else [last]))
    stages = _stages(maps, together) if _may_run_together(maps, together) else None
    if stages is None:
        for layer in layers:
            maps = SpectralMap.cat([maps, layer(maps)])
        return maps if last is None else last(maps)
    block = _block(maps, together, stages)
    sources = [
        piece.spectrum
        if isinstance(piece.spectrum, StoredSpectrum)
        else store(piece.spectrum, block.options)
        for piece in maps.pieces
    ]
    parameters = [p for layer in together for p in layer.stage_parameters()]
    results = run_block(block, sources, parameters)
    made = [Piece(s.form, result) for s, result in zip(stages, results, strict=True)]
    return SpectralMap((*maps.pieces, *made) if last is None else tuple(made[-1:]))


def _may_run_together(maps: SpectralMap, layers: Sequence[SpectralConv]) -> bool:
    if torch.compiler.is_compiling() or is_transformed():
        return False
    tensors: list[Tensor | None] = [
        t for piece in maps.pieces for t in tracked_tensors(piece.spectrum)
    ]
    tensors += [p for layer in layers for p in layer.stage_parameters()]
    rounds = any(layer.storage != "float32" for layer in layers)
    if not differentiates(tensors) and (rounds or not is_evaluated_eagerly()):
        return False  # without gradients, nothing is rounded
    if any(isinstance(norm, nn.SyncBatchNorm) for layer in layers for norm in layer.norm):
        return False  # only a stage by itself joins the statistics of all processes
    watched = [layer for layer in layers if has_other_hooks(layer)]
    return not watched and not nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]


def _stages(maps: SpectralMap, layers: Sequence[SpectralConv]) -> list[SpectralStage] | None:
    """The layers' stages where each reads all channels as one tensor; else None."""
    forms, size = [piece.form for piece in maps.pieces], maps.shape[2:]
    on_map = layers[0].on_map
    alike = set(forms) == {Form(forms[0].frame)}
    source = None if on_map else forms[0]
    if not (on_map or alike):
        return None
    stages, channels = [], maps.shape[1]
    for layer in layers:
        if layer.on_map != on_map or layer.in_channels != channels:
            return None
        if _reads_the_padding(forms, layer):
            return None
        stage = SpectralStage(layer, (source,), (channels,), size)
        if not (on_map or stage.takes_spectra):
            return None
        stages.append(stage)
        forms.append(stage.form)
        channels += layer.out_channels
    inner = [stage.form for stage in stages[:-1]]
    if any(form.size != size if on_map else form != source for form in inner):
        return None
    return stages


def _reads_the_padding(forms: Sequence[Form], layer: SpectralConv) -> bool:
    """Whether a layer convolves spectra with what the threshold has left in their padding.

    Of maps, the padding is zero.
    """
    padding = forms[0].frame.padding
    plain = set(forms) == {Form(forms[0].frame)}
    return layer.on_map and plain and padding == layer.pads() and max(map(max, padding)) > 0


def _block(
    maps: SpectralMap, layers: Sequence[SpectralConv], stages: Sequence[SpectralStage]
) -> Block:
    on_map = layers[0].on_map
    channels = maps.shape[1] + sum(layer.out_channels for layer in layers[:-1])
    points = [math.prod(piece.form.frame.grid) for piece in maps.pieces]
    points += [math.prod(stage.result.grid) for stage in stages]
    options = StageOptions(
        layers[0].storage,
        layers[0].threshold > 0,
        layers[0].passes_gradients,
        splits=not any(takes_batch_statistics(norm) for layer in layers for norm in layer.norm),
        image_bytes=layers[0].weight.element_size() * channels * max(points),
        dense_bytes=MAP_BYTES if on_map else SPECTRUM_BYTES,
    )
    layout = torch.contiguous_format
    if on_map and len(maps.shape) == 4 and layers[0].weight.device.type == "cpu":
        layout = torch.channels_last  # where convolutions of few channels take less time

    def reader(form: Form, channels: int) -> Reader:
        codec = Maps(form.frame, layout=layout) if on_map else SPECTRA
        if form.then is None:
            return Reader(channels, codec, form.finish, lambda grad, _: grad)
        known = form.then.is_known_by_its_result
        return Reader(channels, codec, form.finish, form.then.gradient if known else None)

    def block_stage(layer: SpectralConv, stage: SpectralStage) -> BlockStage:
        stores = StageOptions(
            layer.storage, layer.threshold > 0, layer.passes_gradients, writes=stage.writes(layout)
        )
        values = maps.shape[0] * math.prod(stage.result.size)
        in_parts = on_map and stage.finish is None and values > 1  # else torch's error
        norms = [norm for norm in layer.norm if in_parts and takes_batch_statistics(norm)]
        return BlockStage(
            stage.compute,
            len(layer.stage_parameters()),
            stores,
            None if stage is stages[-1] else reader(stage.form, layer.out_channels),
            stage.gradient_only if stage.is_known_by_its_result else None,
            stage.normalised(norms[0]) if norms else None,
        )

    own = [block_stage(layer, stage) for layer, stage in zip(layers, stages, strict=True)]
    readers = tuple(reader(piece.form, piece.channels) for piece in maps.pieces)
    return Block(tuple(own), readers, 1 if on_map else 3, layout, copies=on_map, options=options)
