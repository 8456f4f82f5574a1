"""The examples of a run: what it trains on, chooses by, and is judged by."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset, Subset

from passband.data import DataBundle, load_dataset
from passband.train.config import TrainConfig
from passband.train.sampling import Item, permutation


@dataclass(frozen=True)
class Parts:
    """The three parts of a run's data.

    Args:
        bundle: The data set they come from.
        train: What the weights are fitted to.
        validation: Held out of the training data, never augmented; None where nothing is held out.
        test: What the result is measured on.
    """

    bundle: DataBundle
    train: Dataset[Item]
    validation: Dataset[Item] | None
    test: Dataset[Item]


def load_parts(config: TrainConfig) -> Parts:
    """Load the data that a config names, and split it as the config says.

    Raises:
        ValueError: The data set is unknown, or too small for the validation fraction.
        FileNotFoundError: The data is not there.

    Examples:
        >>> parts = load_parts(TrainConfig(validation=0.1, limit_train=200))
        >>> size(parts.train), size(parts.validation), size(parts.test)
        (180, 20, 355)
    """
    bundle = load_dataset(config.data, augment=config.augment, image_size=config.image_size)
    chosen = permutation(size(bundle.train), "parts", config.seed)[: config.limit_train]
    held_out = round(config.validation * len(chosen))
    if config.validation > 0 and not 0 < held_out < len(chosen):
        raise ValueError(
            f"validation is {config.validation}, which leaves {held_out} of {len(chosen)} training "
            "examples for validation; both parts need at least one"
        )
    validation: Dataset[Item] | None = None
    if held_out:
        plain = load_dataset(config.data, augment=False, image_size=config.image_size)
        validation = Subset(plain.train, sorted(chosen[:held_out]))
    test = bundle.test
    if config.limit_test is not None and config.limit_test < size(test):
        kept = permutation(size(test), "test", config.seed)[: config.limit_test]
        test = Subset(test, sorted(kept))
    return Parts(bundle, Subset(bundle.train, sorted(chosen[held_out:])), validation, test)


def with_shrink_steps(config: TrainConfig, parts: Parts) -> TrainConfig:
    """The config with the steps that its `shrink_share` comes to; itself where it has none.

    Devices that are given as "auto" count as one.

    Examples:
        >>> config = TrainConfig(method="frequency", keep=0.1, shrink_share=0.5, epochs=3)
        >>> with_shrink_steps(config, load_parts(config)).shrink_steps  # of 138
        69
    """
    if config.shrink_share is None:
        return config
    devices = config.devices if isinstance(config.devices, int) else 1
    steps = config.epochs * math.ceil(size(parts.train) / (config.batch_size * devices))
    shrinking = max(1, round(config.shrink_share * steps))
    return replace(config, shrink_steps=shrinking, shrink_share=None)


def size(dataset: Any) -> int:
    """Number of examples of a data set that has a length."""
    return len(dataset)
