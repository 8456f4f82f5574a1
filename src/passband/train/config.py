"""What a training run is, as data."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from passband.config import BandLimit, FrequencyRegularization, SpecNet

METHODS = ("native", "band-limited", "specnet", "frequency", "small")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULERS = ("none", "cosine", "plateau", "step", "halving")
PRECISIONS = ("32", "64", "16-mixed", "bf16-mixed")

VERSION = 1


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a training run.

    The defaults are the band-limited paper's recipe where it names one: batches of 32, SGD with
    momentum 0.9, learning rate 0.01, weight decay 5e-4, divided by 10 when the loss stops falling
    (Dziedzic et al., ICML 2019, and its code).

    Args:
        data: Data set, a name `passband.data.load_dataset` knows.
        model: Network, a name `passband.networks.create_model` knows.
        method: "native" leaves the network as it is; "band-limited" converts every convolution of
            more than one point, as in the paper, so that the same ones are at every compression;
            "specnet" makes the network pass thresholded spectra on;
            "frequency" regularizes the weights' DCT coefficients; "small" is its control, a plain
            network of the widths that "frequency" would end with.
        compression: Fraction of the half-spectrum to discard, 0 <= c < 1.
        energy: Fraction of the spectral energy to keep, 0 < e <= 1.
        band: Half-spectrum coefficients to keep per axis.
        algorithm: How a band-limited convolution is computed.
        memory: "exact" runs blocks around convolutions so that they keep little for the backward
            pass, with the same gradients; see `passband.BandLimit`. None leaves them single.
        threshold: Beta of a SpecNet; see `passband.SpecNet`, also for the next eight.
        activation: Of a SpecNet.
        pool: Pooling of a SpecNet.
        batch_norm: What becomes of batch norm in a SpecNet.
        learned_scale: Whether a SpecNet's activation has a learned scale.
        storage: How a SpecNet stores values.
        threshold_order: Of a SpecNet's threshold and activation.
        threshold_gradient: Whether gradients pass a SpecNet's threshold.
        dft_norm: Of the DFT that a SpecNet's threshold is meant for.
        epochs: Passes over the training data.
        batch_size: Examples per step and process.
        lr: Learning rate at the start.
        optimizer: "sgd", "adam" or "adamw", as in torch.optim.
        momentum: Momentum of "sgd".
        weight_decay: Weight decay of every optimizer.
        scheduler: "none"; "cosine" falls to zero along half a cosine over the epochs; "step"
            divides by 10 after half and again after three quarters of the epochs; "halving" halves
            after every sixth of them (SpecNet's paper: after 50 of 300); "plateau"
            divides by 10 when the loss has not fallen for 10 epochs: the validation loss where
            there is a validation part, the training loss otherwise.
        precision: "32", "64", "16-mixed" or "bf16-mixed", as in Lightning.
        seed: Determines initial weights, order, augmentation, and every other random choice.
        devices: "auto", a number of devices, or their indices as in "0,1".
        strategy: How several devices work together, a name Lightning knows: "auto", "ddp", "fsdp".
        num_workers: Processes that load data; 0 loads in the training process.
        augment: Augment training images where the data set has an augmentation.
        image_size: Height and width that images of class folders are brought to, in pixels.
        validation: Fraction of the training data held out, 0 <= v < 1, to choose the best epoch
            and to lower the learning rate by.
        limit_train: Use only so many training examples, chosen at random; None: all.
        limit_test: Use only so many test examples, chosen at random; None: all.
        keep: Fraction of the coefficients that method "frequency" keeps in the end; this and what
            follows are fields of `passband.FrequencyRegularization`.
        domain: "channel" or "spatial".
        order: What is dropped first, "shells" or "zigzag".
        shrink: The schedule, "geometric", "linear" or "cosine".
        shrink_rate: What a geometric schedule drops per step.
        shrink_steps: Steps of the schedule; None: those that follow from the rate.
        shrink_share: Steps of the schedule as a part of all steps of the training,
            0 < share <= 1, instead of `shrink_steps`.
        restarts: How often the schedule begins again.
        round_to: Round numbers of channels up to multiples of this.
        per_layer: None, or "macs" to divide a budget of multiplications among the layers.
        keep_last: Fraction that the last layer keeps.
        teacher: Folder of a finished run whose network's scores are learned too.
        teacher_weight: Weight of those in the loss, 0 <= w <= 1; the labels have the rest.
        temperature: What the scores of both are divided by for that.

    Raises:
        ValueError: A value is outside its range, or does not fit another.
        TypeError: A value is of the wrong type.

    Examples:
        >>> config = TrainConfig(method="band-limited", compression=0.5, epochs=3)
        >>> config.band_limit.compression, config.lr
        (0.5, 0.01)
        >>> TrainConfig.from_dict(config.to_dict()) == config
        True
        >>> TrainConfig(epochs=0)
        Traceback (most recent call last):
        ValueError: epochs is 0; it must be at least 1
    """

    data: str = "digits"
    model: str = "resnet8"
    method: str = "native"
    compression: float | None = None
    energy: float | None = None
    band: int | tuple[int, ...] | None = None
    algorithm: str = "auto"
    memory: str | None = None
    threshold: float = 1.0
    activation: str = "spectral-tanh"
    pool: str = "spectral"
    batch_norm: str = "remove"
    learned_scale: bool = False
    storage: str = "float32"
    threshold_order: str = "threshold-first"
    threshold_gradient: str = "masked"
    dft_norm: str = "ortho"
    epochs: int = 20
    batch_size: int = 32
    lr: float = 0.01
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    scheduler: str = "plateau"
    precision: str = "32"
    seed: int = 0
    devices: str | int = "auto"
    strategy: str = "auto"
    num_workers: int = 0
    augment: bool = True
    image_size: int = 224
    validation: float = 0.0
    limit_train: int | None = None
    limit_test: int | None = None
    keep: float | None = None
    domain: str = "channel"
    order: str = "shells"
    shrink: str = "geometric"
    shrink_rate: float = 0.01
    shrink_steps: int | None = None
    shrink_share: float | None = None
    restarts: int = 0
    round_to: int = 1
    per_layer: str | None = None
    keep_last: float | None = None
    teacher: str | None = None
    teacher_weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", METHODS),
            ("optimizer", OPTIMIZERS),
            ("scheduler", SCHEDULERS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}"
                )
        for name in ("epochs", "batch_size", "image_size", "limit_train", "limit_test"):
            self._check_whole(name, minimum=1)
        for name in ("seed", "num_workers"):
            self._check_whole(name, minimum=0)
        self._check_number("lr", "above 0", lambda value: value > 0)
        self._check_number("momentum", "0 <= momentum < 1", lambda value: 0 <= value < 1)
        self._check_number("weight_decay", "0 or more", lambda value: value >= 0)
        self._check_number("validation", "0 <= validation < 1", lambda value: 0 <= value < 1)
        self._check_number("teacher_weight", "0 to 1", lambda value: 0 <= value <= 1)
        self._check_number("temperature", "above 0", lambda value: value > 0)
        if not re.fullmatch(r"auto|[1-9]\d*|\d+(,\d+)+,?|\d+,", str(self.devices)):
            raise ValueError(
                f"devices is {self.devices!r}; allowed are 'auto', a number of devices, or their "
                "indices as in '0,1'"
            )
        if isinstance(self.band, list):
            object.__setattr__(self, "band", tuple(self.band))
        limit = self.band_limit
        if self.method not in ("band-limited", "specnet") and limit != BandLimit():
            raise ValueError(
                f"method is {self.method!r}, which has no compression, energy, band, algorithm or "
                "memory; use method 'band-limited'"
            )
        if self.method == "specnet" and limit != BandLimit(compression=self.compression):
            raise ValueError("method is 'specnet', which has no energy, band, algorithm or memory")
        if self.method == "specnet":
            self.spec_net  # noqa: B018  # its own checks
        elif replace(self.spec_net, compression=None) != SpecNet():
            raise ValueError(
                f"method is {self.method!r}, which has no threshold, activation, pool, batch_norm, "
                "learned_scale, storage, threshold_order, threshold_gradient or dft_norm; use "
                "method 'specnet'"
            )
        self._check_frequency()

    @property
    def spec_net(self) -> SpecNet:
        """What `passband.convert` takes to make a SpecNet."""
        return SpecNet(
            threshold=self.threshold,
            activation=self.activation,
            pool=self.pool,
            batch_norm=self.batch_norm,
            learned_scale=self.learned_scale,
            compression=self.compression,
            storage=self.storage,
            order=self.threshold_order,
            gradient=self.threshold_gradient,
            dft_norm=self.dft_norm,
        )

    @property
    def band_limit(self) -> BandLimit:
        """What `passband.convert` takes; the full band where nothing is given."""
        return BandLimit(
            compression=self.compression,
            energy=self.energy,
            band=self.band,
            algorithm=self.algorithm,
            memory=self.memory,
        )

    @property
    def frequency(self) -> FrequencyRegularization:
        """What `passband.convert` takes for method "frequency"."""
        return FrequencyRegularization(
            keep=FrequencyRegularization.keep if self.keep is None else self.keep,
            domain=self.domain,
            order=self.order,
            schedule=self.shrink,
            rate=self.shrink_rate,
            steps=self.shrink_steps,
            restarts=self.restarts,
            round_to=self.round_to,
            per_layer=self.per_layer,
            keep_last=self.keep_last,
        )

    def _check_frequency(self) -> None:
        given = self.frequency
        shrinks = self.method in ("frequency", "small")
        if shrinks and self.keep is None:
            raise ValueError(f"keep is None, but method {self.method!r} needs it: 0 < keep <= 1")
        if self.shrink_share is not None:
            self._check_number("shrink_share", "0 < share <= 1", lambda value: 0 < value <= 1)
            if not shrinks:
                raise ValueError(f"method is {self.method!r}, which has no shrink_share")
            if self.shrink_steps is not None:
                raise ValueError("give shrink_steps or shrink_share, not both")
        if self.method == "small" and self.domain != "channel":
            raise ValueError(
                f"domain is {self.domain!r}, which has no smaller network; use 'channel'"
            )
        if not shrinks and (self.keep, given) != (None, FrequencyRegularization()):
            raise ValueError(
                f"method is {self.method!r}, which has no keep, nor what goes with it; use method "
                "'frequency'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, with the version of the fields."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`, also after a trip through JSON.

        Raises:
            ValueError: The version is not known here, a field is unknown, or a value is not
                allowed.
        """
        given = dict(values)
        version = given.pop("version", None)
        if version != VERSION:
            raise ValueError(f"version of the training config is {version!r}; known is {VERSION}")
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"a training config has no field {', '.join(unknown)}")
        return cls(**given)

    def _check_whole(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        if value is None and name.startswith("limit_"):
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
        if value < minimum:
            raise ValueError(f"{name} is {value}; it must be at least {minimum}")

    def _check_number(self, name: str, allowed: str, is_allowed: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if not (math.isfinite(value) and is_allowed(value)):
            raise ValueError(f"{name} is {value}; allowed is {allowed}")
