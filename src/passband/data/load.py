"""Data sets by name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passband.data.bundle import DataBundle, LoadOptions
from passband.data.digits import load_digits
from passband.data.folder import load_folder
from passband.data.images import load_images
from passband.data.npz import load_npz
from passband.data.segmentation import load_segmentation
from passband.data.series import load_series
from passband.names import unknown_name


@dataclass(frozen=True)
class Source:
    """A kind of data: what it is, the function that loads it, and what follows the colon."""

    description: str
    load: Callable[[str, LoadOptions], DataBundle]
    argument: str | None = None


SOURCES = {
    "digits": Source(
        "handwritten digits, 1 x 8 x 8, 10 classes; comes with scikit-learn", load_digits
    ),
    "cifar10": Source("photographs, 3 x 32 x 32, 10 classes", load_images),
    "cifar100": Source("photographs, 3 x 32 x 32, 100 classes", load_images),
    "svhn": Source("house numbers, 3 x 32 x 32, 10 classes", load_images),
    "mnist": Source("handwritten digits, 1 x 28 x 28, 10 classes", load_images),
    "ucr": Source(
        "time series of the UCR archive; ucr:GunPoint comes with aeon", load_series, "NAME"
    ),
    "npz": Source("arrays x_train, y_train, x_test, y_test in a NumPy file", load_npz, "FILE"),
    "segmentation": Source(
        "images and masks in segmentation/NAME/images and masks of the data folder",
        load_segmentation,
        "NAME",
    ),
    "folder": Source("images in PATH/train/CLASS and PATH/val/CLASS", load_folder, "PATH"),
}


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    augment: bool = False,
    download: bool = True,
    image_size: int = 224,
) -> DataBundle:
    """Load a data set by name.

    A set is looked for in the user's data folder, then in what comes with the dependencies, and is
    then downloaded by torchvision or aeon into ``~/.cache/passband``. Images and arrays are
    normalised per channel, ``(x - mean) / std`` with the training part's mean and standard
    deviation; time series of the archive each by their own.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``svhn``, ``mnist``, ``ucr:NAME``,
            ``npz:FILE``, ``segmentation:NAME`` or ``folder:PATH``; `list_datasets` says what they
            are. A relative file or path is looked for in the working folder, then in the data
            folder.
        root: The user's data folder; None: the one that the variable PASSBAND_DATA names, if any.
        augment: Augment the training images: random crops with padding 4 and horizontal flips (no
            flips for MNIST and SVHN; random resized crops and flips for class folders; flips along
            both axes, with their masks, for segmentation). Drawn from
            torch's global generator, so `torch.manual_seed` reproduces them. Time series and
            ``digits`` have no augmentation and stay as they are.
        download: Whether missing data may be downloaded.
        image_size: Height and width that images of ``folder:PATH`` and ``segmentation:NAME`` are
            brought to, in pixels.

    Raises:
        ValueError: The name is unknown, or the data is not what it should be; the message says
            what is wrong and what is wanted.
        FileNotFoundError: A file is missing, or a download failed; the message says what to put
            where.
        ImportError: A package is missing; the message names the extra.

    Examples:
        >>> data = load_dataset("digits")
        >>> data.input_shape, data.num_classes, len(data.train), len(data.test)
        ((1, 8, 8), 10, 1442, 355)
        >>> image, label = data.train[0]
        >>> image.shape, image.dtype, label
        (torch.Size([1, 8, 8]), torch.float32, 0)
    """
    kind, colon, argument = name.partition(":")
    source = SOURCES.get(kind)
    if source is None or (colon and source.argument is None):
        raise unknown_name("data set", name, [shown for shown, _ in list_datasets()])
    if source.argument is not None and not argument:
        raise ValueError(f"data set {name!r} lacks its {source.argument}: {kind}:{source.argument}")
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}; it must be at least 1")
    named = os.environ.get("PASSBAND_DATA")
    if root is None and named:
        root = Path(named).expanduser()
    return source.load(argument or name, LoadOptions(root, augment, download, image_size))


def list_datasets() -> list[tuple[str, str]]:
    """The names that `load_dataset` knows, each with a description.

    Examples:
        >>> list_datasets()[0]
        ('digits', 'handwritten digits, 1 x 8 x 8, 10 classes; comes with scikit-learn')
    """
    return [
        (name if source.argument is None else f"{name}:{source.argument}", source.description)
        for name, source in SOURCES.items()
    ]
