"""What to do to a model, as data: one frozen dataclass per method.

A config says everything that `passband.convert` needs to know, survives a trip through JSON, and is
stored with a saved model, so that a file says how it was made.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from passband.spectrum.band import check_band_arguments

ConfigT = TypeVar("ConfigT", bound="Config")

_METHODS: dict[str, type["Config"]] = {}

_MEMORY_CHOICES = {
    "memory": ("exact",),
    "spectrum_dtype": ("bfloat16", "int8"),
    "offload": ("cpu", "disk"),
}


@dataclass(frozen=True)
class Config:
    """Base of the configs: a method's name, a version, and the way to and from JSON."""

    method: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _METHODS[cls.method] = cls

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, with the method's name and the version of its fields."""
        return {"method": self.method, "version": self.version, **asdict(self)}

    @classmethod
    def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
        """The inverse of `to_dict`.

        Raises:
            ValueError: The method is another one, the version is newer than this package knows, or
                a field is unknown.
        """
        fields = dict(values)
        method, version = fields.pop("method", None), fields.pop("version", None)
        if method != cls.method:
            raise ValueError(f"method is {method!r}, but {cls.__name__} is {cls.method!r}")
        if not isinstance(version, int) or not 1 <= version <= cls.version:
            raise ValueError(
                f"version {version!r} of {cls.__name__} is not known here (1 to {cls.version}); "
                "upgrade passband"
            )
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})


def config_from_dict(values: dict[str, Any]) -> Config:
    """The config that `Config.to_dict` described, whatever its method.

    Raises:
        ValueError: The method is unknown, or the fields do not fit it.

    Examples:
        >>> config_from_dict(BandLimit(compression=0.5).to_dict())
        BandLimit(compression=0.5, energy=None, band=None, fft_size=None, \
algorithm='auto', energy_mode='coarse', memory=None, spectrum_dtype=None, offload=None)
    """
    method = values.get("method")
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(f"method is {method!r}; known are {', '.join(sorted(_METHODS))}")
    return _METHODS[method].from_dict(values)


@dataclass(frozen=True)
class BandLimit(Config):
    """Band-limited convolutions (Dziedzic et al., ICML 2019, section 3).

    At most one of the first three says how much of the spectrum is kept; none of them keeps all.

    Args:
        compression: Fraction of the half-spectrum's coefficients to discard, 0 <= c < 1.
        energy: Fraction of the input's spectral energy to keep, 0 < e <= 1; the band then follows
            from each batch.
        band: Half-spectrum coefficients kept per axis.
        fft_size: Transform length per axis; None is the padded map itself.
        algorithm: "auto", "fft", "lowpass", "matmul" or "triton" (on CUDA devices).
        energy_mode: "coarse" adds whole shells of frequencies until the energy is reached, "fine"
            adds the last shell's coefficients one at a time.
        memory: "exact" runs a convolution with the batch norm, the activation and the pooling
            around it as one block that keeps no more than a spectrum for the backward pass, and
            makes the rest again; gradients stay the same, to rounding. None leaves them single.
        spectrum_dtype: "bfloat16" or "int8" (or torch's type) keeps the spectra in fewer bits, from
            which the output is then made, too: approximate. Needs `memory`.
        offload: "cpu" moves what the blocks keep to pinned memory of the host, "disk" to a file:
            slower. Needs `memory`.

    Raises:
        ValueError: A value is outside its range, or more than one band is given.
        TypeError: A value is of the wrong type.

    Examples:
        >>> BandLimit(compression=0.5).to_dict()["compression"]
        0.5
    """

    method: ClassVar[str] = "band-limited"

    compression: float | None = None
    energy: float | None = None
    band: int | tuple[int, ...] | None = None
    fft_size: int | tuple[int, ...] | None = None
    algorithm: str = "auto"
    energy_mode: str = "coarse"
    memory: str | None = None
    spectrum_dtype: str | None = None
    offload: str | None = None

    def __post_init__(self) -> None:
        check_band_arguments(self.compression, self.energy, self.band, self.energy_mode)
        if self.spectrum_dtype is not None:  # torch.bfloat16 is "bfloat16" in JSON
            name = str(self.spectrum_dtype).removeprefix("torch.")
            object.__setattr__(self, "spectrum_dtype", name)
        for name, allowed in _MEMORY_CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(
                    f"{name} is {value!r}, allowed are None, {', '.join(map(repr, allowed))}"
                )
            if value is not None and self.memory is None:
                raise ValueError(f"{name} is {value!r}, which needs memory='exact'")


@dataclass(frozen=True)
class SpecNet(Config):
    """Maps that stay spectra between layers, thresholded and stored sparsely (Guan et al., 2021).

    Args:
        threshold: Beta: coefficients of the orthonormal DFT of less magnitude become zero.
        activation: "spectral-tanh", the paper's, of real and imaginary parts; "spectral-softsign",
            "spectral-hardtanh", "spectral-arctan" likewise; "relu", "tanh", "gelu", "silu", "elu",
            "leaky-relu" of the map, with transforms around it; "keep": the model's own, of the map.
        pool: What pooling layers become: "spectral" crops the band; "average" and "stride" fold the
            spectrum; "max" is for activations of the map.
        batch_norm: "remove", as the paper does, with what it computes in evaluation folded into the
            convolution before it; or "keep", for activations of the map.
        learned_scale: Learn s of s tanh(x / s) in each channel.
        compression: Fraction of the half-spectrum to discard besides, 0 <= c < 1.
        storage: How values are stored: "float32", "bfloat16" or "int8".
        order: "threshold-first", which the paper's text speaks for, or "activation-first".

    Raises:
        ValueError: A value is outside its range.
        TypeError: A value is of the wrong type.

    Examples:
        >>> SpecNet(threshold=1.0).to_dict()["activation"]
        'spectral-tanh'
    """

    method: ClassVar[str] = "specnet"

    threshold: float = 1.0
    activation: str = "spectral-tanh"
    pool: str = "spectral"
    batch_norm: str = "remove"
    learned_scale: bool = False
    compression: float | None = None
    storage: str = "float32"
    order: str = "threshold-first"

    def __post_init__(self) -> None:
        check_band_arguments(self.compression, None, None)
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)):
            raise TypeError(f"threshold must be a number, got {self.threshold!r}")
        if not 0 <= self.threshold < math.inf:
            raise ValueError(f"threshold is {self.threshold}, allowed is 0 or more")
        if self.batch_norm not in ("remove", "keep"):
            raise ValueError(f"batch_norm is {self.batch_norm!r}, allowed are 'remove' and 'keep'")
        if self.batch_norm == "keep" and self.activation.startswith("spectral-"):
            raise ValueError(
                "batch_norm is 'keep', which has no spectral form; use 'remove', or an activation "
                "of the map"
            )
