"""What layers have in common whose weights are DCT coefficients: of these a low corner is kept.

In the channel domain a map holds coefficients along its channels, the lowest first, and only those
that can be other than zero: a layer of 64 channels may get and give 5. With W = D_out^T Wh D_in the
layer y = W x is yh = Wh xh for xh = D_in x and yh = D_out y (Zhao, Dong, Basu 2024); the kernel's
own axes are transformed too, and back before the convolution.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from passband.spectrum.constants import cached_constant
from passband.spectrum.corner import Corner, box_corner, corner_of_count
from passband.spectrum.dct import dct_matrix
from passband.spectrum.dft import transform

LayerT = TypeVar("LayerT", bound="FrequencyLayer")

_OWN = ("domain", "order", "sizes", "in_blocks", "corner", "_mask")
_OWN_BUFFERS = ("kept", "input_index", "weight_index")


def frequency_ranks(blocks: tuple[int, ...]) -> list[tuple[int, int]]:
    """The channels of concatenated maps in the order of their frequency relative to their map.

    Returns:
        (map, frequency) of each rank: the low corner of a weight takes a like share of every map.

    Examples:
        >>> frequency_ranks((4, 2))
        [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]
    """
    channels = [(block, k) for block, size in enumerate(blocks) for k in range(size)]
    return sorted(channels, key=lambda c: ((2 * c[1] + 1) / (2 * blocks[c[0]]), c[0]))


@cached_constant
def _channel_basis(blocks: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal basis (rank, channel) of concatenated maps, each with its own DCT."""
    together = torch.zeros(sum(blocks), sum(blocks), dtype=dtype)
    for block, size in enumerate(blocks):
        start = sum(blocks[:block])
        together[start : start + size, start : start + size] = dct_matrix(size, dtype)
    starts = [sum(blocks[:block]) for block in range(len(blocks))]
    order = [starts[block] + k for block, k in frequency_ranks(blocks)]
    return together[order].to(device)


class FrequencyLayer(nn.Module):
    """What the layers with DCT coefficients for weights have in common.

    `weight` is a low box of the coefficients, at least the one that holds all that are kept.
    """

    _native: type[nn.Module]
    _in_axis, _out_axis = 1, 0

    weight: nn.Parameter
    bias: nn.Parameter | None
    kept: Tensor
    input_index: Tensor | None
    weight_index: Tensor | None
    domain: str
    order: str
    sizes: tuple[int, ...]
    in_blocks: tuple[int, ...]
    corner: Corner
    _mask: Tensor | None

    def __init__(
        self, *args: Any, domain: str = "channel", order: str = "shells", **kwargs: Any
    ) -> None:
        super().__init__()
        self.__dict__.update(self._native(*args, **kwargs).__dict__)
        self._take(domain, order, None)

    @classmethod
    def from_layer(
        cls: type[LayerT],
        layer: nn.Module,
        *,
        domain: str = "channel",
        order: str = "shells",
        in_blocks: tuple[int, ...] | None = None,
    ) -> LayerT:
        """The layer with the coefficients of a torch layer's weights; it takes its parameters.

        Args:
            layer: The torch layer, which is not to be used any more.
            domain: "channel" or "spatial".
            order: "shells" or "zigzag".
            in_blocks: Channels of the maps that its input concatenates; None: one map.

        Raises:
            TypeError: `layer` is not exactly the torch layer that this class stands for.
            ValueError: It has groups, and the domain is "channel".
        """
        if type(layer) is not cls._native:
            raise TypeError(
                f"layer is {type(layer).__name__}, allowed is exactly {cls._native.__name__}"
            )
        made = cls.__new__(cls)
        made.__dict__.update(layer.__dict__)
        made._take(domain, order, in_blocks)
        return made

    def _take(self, domain: str, order: str, in_blocks: tuple[int, ...] | None) -> None:
        """Turn the weights, which are a torch layer's, into coefficients."""
        if domain not in ("channel", "spatial"):
            raise ValueError(f"domain is {domain!r}; allowed are channel, spatial")
        if domain == "channel" and getattr(self, "groups", 1) != 1:
            raise ValueError(
                f"groups is {self.groups}, which has no dual in the channel domain; use 1, or "
                "domain 'spatial'"
            )
        self.domain, self.order = domain, order
        weight = self._shaped(self.weight.data, in_blocks)
        self.sizes = tuple(weight.shape)
        self.in_blocks = in_blocks or (self.sizes[self._in_axis],)
        self._buffers = dict(self._buffers)
        for name in ("input_index", "weight_index"):
            self.register_buffer(name, None, persistent=False)
        with torch.no_grad():
            self.weight.data = transform(weight, self._bases(self.sizes), 0).contiguous()
            if domain == "channel" and self.bias is not None:
                basis = dct_matrix(len(self.bias), self.bias.dtype, self.bias.device)
                self.bias.data = basis @ self.bias.data
        size = 1 + len(self.sizes)
        self.register_buffer("kept", torch.zeros(size, dtype=torch.int64, device=weight.device))
        self._set_corner(box_corner(self.sizes, self.sizes, order))

    def _shaped(self, weight: Tensor, in_blocks: tuple[int, ...] | None) -> Tensor:
        """The weight of the torch layer with one axis per transform."""
        return weight

    def to_layer(self) -> nn.Module:
        """The torch layer with these weights, back along all axes; it takes the parameters."""
        layer = self._native.__new__(self._native)
        layer.__dict__.update({k: v for k, v in self.__dict__.items() if k not in _OWN})
        layer._buffers = {k: v for k, v in self._buffers.items() if k not in _OWN_BUFFERS}
        with torch.no_grad():
            self.weight.data = self.spatial_weight().contiguous()
            if self.domain == "channel" and self.bias is not None:
                basis = dct_matrix(len(self.bias), self.bias.dtype, self.bias.device)
                kept = torch.zeros_like(self.bias.data)
                kept[: self.out_kept] = self.bias.data[: self.out_kept]
                self.bias.data = basis.T @ kept
        return layer

    @property
    def in_kept(self) -> int:
        """Kept coefficients along the input's channels."""
        return self.corner.extents[self._in_axis]

    @property
    def out_kept(self) -> int:
        """Kept coefficients along the output's channels, and the channels that come out."""
        return self.corner.extents[self._out_axis]

    @property
    def out_size(self) -> int:
        """Channels of the output, kept or not."""
        return self.sizes[self._out_axis]

    def keep(self, corner: Corner) -> None:
        """Keep another corner of the coefficients; what is new in it begins at zero."""
        pairs = zip(corner.extents, self.corner.extents, strict=True)
        if corner.count > self.corner.count or any(new > old for new, old in pairs):
            if all(e <= n for e, n in zip(corner.extents, self.weight.shape, strict=True)):
                with torch.no_grad():
                    self.weight.copy_(self._boxed(self.coefficients(), tuple(self.weight.shape)))
            else:
                self._replace_weight(self._boxed(self.coefficients(), corner.extents))
        self._set_corner(corner)

    def keep_count(self, count: int) -> None:
        """Keep so many coefficients, in the layer's order."""
        self.keep(corner_of_count(self.sizes, count, self.order))

    def cut(self) -> None:
        """Throw away the coefficients outside the box of those that are kept.

        `weight` is another parameter then, which an optimizer has to be told;
        `passband.FrequencyScheduler` does.
        """
        if tuple(self.weight.shape) != self.corner.extents:
            self._replace_weight(self.coefficients().detach().clone())

    def coefficients(self) -> Tensor:
        """The box of kept coefficients, zero where one of the box is not kept."""
        box: Tensor = self.weight[tuple(slice(extent) for extent in self.corner.extents)]
        return box if self._mask is None else box * self._mask

    def kept_coefficients(self) -> Tensor:
        """The kept coefficients alone, one after the other in raster order."""
        mask = self._mask
        kept = self.coefficients().detach()
        return kept.flatten() if mask is None else kept[mask.bool()]

    def box_of(self, values: Tensor) -> Tensor:
        """The inverse of `kept_coefficients`: the box with these values, of their type."""
        box = values.new_zeros(self.corner.extents)
        mask = torch.ones_like(box) if self._mask is None else self._mask
        box[mask.bool().to(box.device)] = values
        return box

    def make_room(self, corner: Corner, shape: tuple[int, ...] | None = None) -> None:
        """Keep another corner, whose coefficients are to be loaded; `weight` is the same object.

        Args:
            corner: The corner.
            shape: Of `weight`, at least the corner's box; None: that box.
        """
        shape = shape or corner.extents
        if tuple(self.weight.shape) != shape:
            self.weight.data = self._boxed(self.weight.data, shape)
        self._set_corner(corner)

    def spatial_weight(self) -> Tensor:
        """The weights of the torch layer: back along all axes."""
        bases = [basis[:n].T for basis, n in self._bases_and_extents()]
        weight = transform(self.coefficients(), bases, 0)
        return weight.flatten(1) if self._native is nn.Linear else weight

    def channel_weight(self) -> Tensor:
        """The weights that act on channel coefficients: back along the axes of the kernel alone.

        Kept inputs and outputs only, the input's channels in the order of `frequency_ranks`.
        """
        bases = [basis[:n].T for basis, n in self._bases_and_extents()[2:]]
        return transform(self.coefficients(), bases, 2) if bases else self.coefficients()

    def forward(self, input: Tensor) -> Tensor:
        """Of a map (B, C, ..) the result of the layer; with fewer channels in the channel domain.

        Channels that are left out of the input are zero, and so are those left out of the output.
        """
        if self.domain == "spatial":
            return self._apply_weight(input, self.spatial_weight(), self.bias)
        weight = self.channel_weight()
        if self.input_index is not None and self.weight_index is not None:
            input = self._selected(input, self.input_index)
            weight = weight.index_select(self._in_axis, self.weight_index)
        else:
            channels = min(self._input_channels(input), self.in_kept)
            input = self._first(input, channels)
            weight = weight.narrow(self._in_axis, 0, channels)
        return self._apply_weight(input, weight, self._kept_bias())

    def used_inputs(self, channels: int) -> int:
        """Channels that it reads of a map with so many."""
        if self.domain == "spatial":
            return self.sizes[self._in_axis]
        return (
            len(self.input_index) if self.input_index is not None else min(channels, self.in_kept)
        )

    def macs(self, input_shape: tuple[int, ...], dense: bool = False) -> int:
        """Multiply-accumulates of a forward pass, of the transforms of its weights none.

        Args:
            input_shape: (B, C, ..) of the map with the channels that it has.
            dense: Those of the torch layer instead.
        """
        points = math.prod(self._points(input_shape))
        if dense or self.domain == "spatial":
            return int(input_shape[0] * points * math.prod(self.sizes))
        inputs = self.used_inputs(self._channels(input_shape))
        taps = math.prod(self.sizes[2:])
        return int(input_shape[0] * points * inputs * self.out_kept * taps)

    def _kept_bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias[: self.out_kept]

    def _input_channels(self, input: Tensor) -> int:
        return self._channels(tuple(input.shape))

    def _channels(self, shape: tuple[int, ...]) -> int:
        return shape[1]

    def _first(self, input: Tensor, channels: int) -> Tensor:
        return input[:, :channels]

    def _selected(self, input: Tensor, index: Tensor) -> Tensor:
        return input.index_select(1, index)

    def _apply_weight(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _points(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Points of the map at which every weight multiplies once."""
        raise NotImplementedError

    def _bases(self, sizes: Sequence[int]) -> list[Tensor]:
        dtype, device = self.weight.dtype, self.weight.device
        bases = [dct_matrix(size, dtype, device) for size in sizes]
        if self.domain == "channel":
            bases[self._in_axis] = _channel_basis(self.in_blocks, dtype, device)
        return bases

    def _bases_and_extents(self) -> list[tuple[Tensor, int]]:
        return list(zip(self._bases(self.sizes), self.corner.extents, strict=True))

    def _set_corner(self, corner: Corner) -> None:
        self.corner = corner
        self._mask = corner.mask()
        self._match_mask()
        self.kept.copy_(torch.tensor([corner.count, *corner.extents]))

    def _replace_weight(self, values: Tensor) -> None:
        self.weight = nn.Parameter(values, self.weight.requires_grad)

    @staticmethod
    def _boxed(values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Another box of coefficients, with those of the old one that are in it."""
        box = torch.zeros(shape, dtype=values.dtype, device=values.device)
        both = tuple(slice(min(old, new)) for old, new in zip(values.shape, shape, strict=True))
        box[both] = values.detach()[both]
        return box

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._match_mask()
        return result

    def _match_mask(self) -> None:
        """The mask where the weight is, and of its type."""
        if self._mask is not None:
            self._mask = self._mask.to(self.weight)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the saved corner first, so that the saved weight fits."""
        kept, weight = state_dict.get(f"{prefix}kept"), state_dict.get(f"{prefix}weight")
        if isinstance(kept, Tensor) and isinstance(weight, Tensor):
            count, *extents = kept.tolist()
            fits = len(extents) == len(self.sizes) == weight.dim() and all(
                e <= w <= n for e, w, n in zip(extents, weight.shape, self.sizes, strict=True)
            )
            if fits:
                corner = Corner(self.sizes, tuple(extents), count, self.order)
                self.make_room(corner, tuple(weight.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._match_mask()

    def extra_repr(self) -> str:
        """The sizes of the whole layer, and what is kept."""
        kept = "x".join(map(str, self.corner.extents))
        whole = "x".join(map(str, self.sizes))
        return f"{whole}, kept={self.corner.count} in {kept}, domain={self.domain!r}"
