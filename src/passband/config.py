"""What to do to a model, as data: one frozen dataclass per method.

A config says everything that `passband.convert` needs to know, survives a trip through JSON, and is
stored with a saved model, so that a file says how it was made.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

from passband.spectrum.band import check_band_arguments
from passband.spectrum.corner import ORDERS

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
        threshold: Beta: coefficients of the DFT of less magnitude become zero.
        activation: "spectral-tanh", the paper's, of real and imaginary parts; "spectral-softsign",
            "spectral-hardtanh", "spectral-arctan" likewise; "relu", "tanh", "gelu", "silu", "elu",
            "leaky-relu" of the map, with transforms around it; "keep": the model's own, of the map.
        pool: What pooling layers become: "spectral" crops the band; "average" and "stride" fold the
            spectrum; "max" is for activations of the map.
        batch_norm: "remove", as the paper does, with what it computes in evaluation folded into the
            convolution before it; or "keep", for activations of the map. Its gradient takes the
            normalised maps from what is stored, which is exact at threshold 0 in float32.
        learned_scale: Learn s of s tanh(x / s) in each channel.
        compression: Fraction of the half-spectrum to discard besides, 0 <= c < 1.
        storage: How values are stored: "float32", "bfloat16" or "int8".
        order: "threshold-first", which the paper's text speaks for, or "activation-first".
        gradient: "masked": what the threshold has made zero has no gradient; or for activations of
            the map "straight-through": gradients pass the threshold as if it were not there.
        dft_norm: The DFT that beta is meant for, by torch.fft's names: "ortho", where beta means
            the same on maps of any size; "backward" (not normalised), where it spares large maps;
            or "forward". The paper names none.

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
    gradient: str = "masked"
    dft_norm: str = "ortho"

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


DOMAINS = ("channel", "spatial")
SCHEDULES = ("geometric", "linear", "cosine")
NEGLIGIBLE = 0.01  # of `keep`: a geometric schedule that is so near to its end is at its end


@dataclass(frozen=True)
class FrequencyRegularization(Config):
    """Weights as DCT coefficients, of which a shrinking low corner is kept.

    In the channel domain the maps are coefficients along the channels too, from one DCT after the
    input to one IDCT before the output, so that the kept corner *is* a small network (Zhao, Dong,
    Basu 2024). In the spatial domain the network computes as ever, with weights that are few
    numbers (Zhao, Dong, Basu et al. 2023): small files, the same time.

    Args:
        keep: Fraction of each layer's coefficients to keep in the end, 0 < keep <= 1.
        domain: "channel" or "spatial".
        order: What is dropped first: "shells" by the largest index, "zigzag" by the sum of them.
        schedule: How the kept fraction k falls from 1 over the steps t: "geometric",
            ``keep + (1 - keep) (1 - rate)^t`` until that is `keep` but for a hundredth; "linear" or
            "cosine", over as many steps.
        rate: What a geometric schedule takes away per step, 0 < rate < 1.
        steps: Training steps until `keep` is reached, instead of those that follow from `rate`.
        restarts: How often the schedule begins again after it has ended, at everything.
        round_to: Numbers of kept channels are rounded up to multiples of this.
        per_layer: None: every layer keeps the same fraction. "macs": every map keeps the same
            fraction of its channels, such that the network multiplies `keep` times as much; then
            there is no other order, nor what a layer keeps at least or last.
        keep_last: Fraction that the layer before the output keeps; None: all in the channel domain,
            `keep` in the spatial one.
        least_conv: Coefficients that a convolution keeps at least.
        least_linear: Coefficients that a linear layer keeps at least.

    Raises:
        ValueError: A value is outside its range, or does not fit another.
        TypeError: A value is of the wrong type.

    Examples:
        >>> config = FrequencyRegularization(keep=0.007)
        >>> config.shrink_steps, round(config.kept_at(100), 3), config.kept_at(10**6)
        (952, 0.371, 0.007)
        >>> FrequencyRegularization(keep=0)
        Traceback (most recent call last):
        ValueError: keep is 0; allowed is 0 < keep <= 1
    """

    method: ClassVar[str] = "frequency"

    keep: float = 0.1
    domain: str = "channel"
    order: str = "shells"
    schedule: str = "geometric"
    rate: float = 0.01
    steps: int | None = None
    restarts: int = 0
    round_to: int = 1
    per_layer: str | None = None
    keep_last: float | None = None
    least_conv: int = 1
    least_linear: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("domain", DOMAINS),
            ("order", ORDERS),
            ("schedule", SCHEDULES),
            ("per_layer", (None, "macs")),
        ):
            if getattr(self, name) not in allowed:
                known = ", ".join(str(value) for value in allowed)
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {known}")
        for name in ("keep", "keep_last", "rate"):
            value = getattr(self, name)
            if value is None and name == "keep_last":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not 0 < value <= 1 or (name == "rate" and value == 1):
                end = "< 1" if name == "rate" else "<= 1"
                raise ValueError(f"{name} is {value}; allowed is 0 < {name} {end}")
        for name, minimum in (
            ("steps", 1), ("restarts", 0), ("round_to", 1), ("least_conv", 1), ("least_linear", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name == "steps":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            if value < minimum:
                raise ValueError(f"{name} is {value}; it must be at least {minimum}")
        if self.domain == "spatial" and (self.per_layer is not None or self.round_to != 1):
            name = "per_layer" if self.per_layer is not None else "round_to"
            raise ValueError(
                f"{name} is {getattr(self, name)!r}, which chooses widths, and domain 'spatial' "
                "keeps all of them; use domain 'channel'"
            )
        if self.per_layer == "macs":
            for name in ("order", "keep_last", "least_conv", "least_linear"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, but with per_layer 'macs' every map "
                        "keeps the same share of its channels; leave one of them out"
                    )

    @property
    def shrink_steps(self) -> int:
        """Training steps until `keep` is reached, restarts left out."""
        if self.keep == 1:
            return 0
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(math.log(self._negligible) / math.log1p(-self.rate)))

    @property
    def total_steps(self) -> int:
        """Training steps until `keep` is reached for good."""
        return self.shrink_steps * (self.restarts + 1)

    def kept_at(self, step: int) -> float:
        """The fraction to keep after so many training steps."""
        if step >= self.total_steps:
            return self.keep
        part = step % self.shrink_steps / self.shrink_steps
        if self.schedule == "geometric":
            above = math.pow(self._negligible, part)
        elif self.schedule == "linear":
            above = 1 - part
        else:
            above = (1 + math.cos(math.pi * part)) / 2
        return self.keep + (1 - self.keep) * above

    @property
    def kept_last(self) -> float:
        """The fraction that the layer before the output keeps in the end."""
        if self.keep_last is not None:
            return self.keep_last
        return 1.0 if self.domain == "channel" else self.keep

    @property
    def _negligible(self) -> float:
        """What is left above `keep` at the end of the schedule, of what was above it."""
        return min(0.5, NEGLIGIBLE * self.keep / max(1 - self.keep, NEGLIGIBLE * self.keep))
