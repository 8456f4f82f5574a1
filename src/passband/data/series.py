"""Time series of the UCR and UEA archives."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from passband.data.arrays import Arrays
from passband.data.bundle import DataBundle, LoadOptions
from passband.extras import require
from passband.names import unknown_name

Floats = NDArray[np.float64]
Part = tuple[list[Floats], list[str]]  # series (C, L), and the archive's labels


def load_series(name: str, options: LoadOptions) -> DataBundle:
    """A set of the archive: ``NAME_TRAIN.tsv`` of the user's folder, aeon's bundled, or downloaded.

    Looked for in ``PASSBAND_DATA/ucr/NAME/``, among the sets that aeon brings with it, in the
    cache of earlier downloads, and then downloaded by aeon. Missing values and shorter series, and
    the normalisation of each series: see `normalise`. Labels become 0..K-1 in sorted order; the
    archive's own are the class names. Never augmented.

    Source: Dau et al., The UCR time series archive (IEEE/CAA J. Automatica Sinica 2019).

    Raises:
        FileNotFoundError: The set is not here and cannot be downloaded.
        ValueError: No set has this name, or its file cannot be read.
    """
    (x_train, y_train), (x_test, y_test), source = _read(name, options)
    names = _class_names(y_train + y_test)
    label = {name: index for index, name in enumerate(names)}
    length = max(series.shape[-1] for series in x_train + x_test)
    arrays = Arrays(
        torch.from_numpy(normalise(_stack(x_train, length))),
        torch.tensor([label[name] for name in y_train]),
        torch.from_numpy(normalise(_stack(x_test, length))),
        torch.tensor([label[name] for name in y_test]),
        num_classes=len(names),
        class_names=names,
    )
    channels = arrays.x_train.shape[1]
    statistics = torch.zeros(channels, 1), torch.ones(channels, 1)  # each series has its own
    return arrays.bundle(f"ucr:{name}", source, statistics)


def normalise(series: Floats) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1 for each series and channel, as the archive does.

    The standard deviation is the archive's, with L-1 in its denominator, so series that it gives
    normalised stay as they are, to rounding. A constant series becomes zeros. Missing values (NaN)
    between two others are interpolated linearly; at the start and at the end of a series, which is
    how the archive pads shorter ones, they become zeros, the mean, and do not count.

    Args:
        series: (N, C, L).

    Returns:
        (N, C, L) float32, without NaN.

    Examples:
        >>> normalise(np.array([[[1.0, np.nan, 3.0, np.nan]]])).tolist()
        [[[-1.0, 0.0, 1.0, 0.0]]]
    """
    observed = ~np.isnan(series)
    filled = series.copy()
    for index in zip(*np.nonzero(~observed.all(-1)), strict=True):
        present = np.flatnonzero(observed[index])
        if present.size:
            inside = np.arange(present[0], present[-1] + 1)
            filled[index][inside] = np.interp(inside, present, series[index][present])
            observed[index][inside] = True
    count = observed.sum(-1, keepdims=True)
    mean = np.where(observed, filled, 0).sum(-1, keepdims=True) / np.maximum(count, 1)
    deviation = np.where(observed, filled - mean, 0)
    std = np.sqrt((deviation**2).sum(-1, keepdims=True) / np.maximum(count - 1, 1))
    constant = std <= 1e-12 * np.abs(mean)  # no more than the rounding of the mean
    normalised: NDArray[np.float32] = (deviation / np.where(constant, 1, std)).astype(np.float32)
    return normalised


def _read(name: str, options: LoadOptions) -> tuple[Part, Part, str]:
    """Both parts, and where they came from."""
    folder = options.find("ucr", name)
    if folder is not None:
        train, test = (_read_tsv(folder / f"{name}_{part}.tsv") for part in ("TRAIN", "TEST"))
        return train, test, str(folder)
    aeon = require("aeon.datasets", extra="data")
    bundled = Path(aeon.__path__[0]) / "data" / name
    if (bundled / f"{name}_TRAIN.ts").exists():
        return *_read_ts(aeon, bundled), "bundled with aeon"
    catalogue = require("aeon.datasets.tsc_datasets", extra="data")
    known = {*catalogue.univariate, *catalogue.multivariate}
    if name not in known:
        raise unknown_name("UCR set", name, known | _local_names(options))
    cached = options.cache / "ucr" / name
    if not cached.is_dir():
        _download(aeon, name, cached, options)
    return *_read_ts(aeon, cached), f"downloaded by aeon to {cached}"


def _local_names(options: LoadOptions) -> set[str]:
    folder = options.find("ucr")
    return set() if folder is None else {entry.name for entry in folder.iterdir()}


def _read_tsv(path: Path) -> Part:
    """The archive's form: a line is a label and the values of one series, between tabs."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}; a set is NAME_TRAIN.tsv and NAME_TEST.tsv")
    lines = path.read_text().splitlines()
    if not lines:
        raise ValueError(f"{path} is empty; a line is a label and the values, between tabs")
    try:
        table = np.loadtxt(lines, delimiter="\t", ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); a line is a label and the values, between tabs"
        ) from error
    if table.shape[1] < 2:
        raise ValueError(f"{path} has no values; a line is a label and the values, between tabs")
    if np.isinf(table).any():
        raise ValueError(f"{path} holds infinite values; write NaN for a missing one")
    return list(table[:, None, 1:]), [format(label, ".15g") for label in table[:, 0]]


def _read_ts(aeon: Any, folder: Path) -> tuple[Part, Part]:
    parts = []
    for part in ("TRAIN", "TEST"):
        series, labels = aeon.load_from_ts_file(str(folder / f"{folder.name}_{part}.ts"))
        parts.append((list(series), [str(label) for label in labels]))
    return parts[0], parts[1]


def _download(aeon: Any, name: str, target: Path, options: LoadOptions) -> None:
    """Fetch a set with aeon; `target` appears when all of it is there."""
    wanted = f"ucr/{name}/{name}_TRAIN.tsv and {name}_TEST.tsv"
    if not options.download:
        raise options.missing(f"ucr:{name}", wanted, "downloads are switched off")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            aeon.load_classification(name, split="train", extract_path=folder)
        except (OSError, ValueError) as error:
            reason = f"could not be downloaded ({error})"
            raise options.missing(f"ucr:{name}", wanted, reason) from error
        os.replace(Path(folder) / name, target)


def _class_names(labels: list[str]) -> tuple[str, ...]:
    """The different labels: as numbers if they all are, else in alphabetical order."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        return tuple(sorted(names))


def _stack(series: list[Floats], length: int) -> Floats:
    """(N, C, length), the shorter series filled up with NaN."""
    stacked = np.full((len(series), series[0].shape[0], length), np.nan)
    for row, values in zip(stacked, series, strict=True):
        row[:, : values.shape[-1]] = values
    return stacked
