"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn."""

import torch

from passband.data.arrays import Arrays, channel_statistics
from passband.data.bundle import DataBundle, LoadOptions
from passband.extras import require

EVERY = 5  # one image of five, within each class, is a test image


def load_digits(name: str, options: LoadOptions) -> DataBundle:
    """The 1,797 digits, 17 grey levels, in ten classes.

    scikit-learn gives them in one part. The split here is fixed and stratified: of the images of
    each class, in their order in the file, the 5th, 10th, ... are the test part (355 of them). Not
    augmented: a mirrored digit is no digit, and 4 of 8 pixels are no small shift.

    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits (UCI, 1998).
    """
    data = require("sklearn.datasets", extra="data").load_digits()
    images = torch.from_numpy(data.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(data.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[torch.nonzero(labels == label).flatten()[EVERY - 1 :: EVERY]] = True
    arrays = Arrays(
        images[~test],
        labels[~test],
        images[test],
        labels[test],
        num_classes=10,
        class_names=tuple(str(digit) for digit in range(10)),
    )
    source = "scikit-learn's bundled digits, every fifth image of a class held out for the test"
    return arrays.bundle(name, source, channel_statistics(arrays.x_train))
