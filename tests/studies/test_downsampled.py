"""The control's data: the same examples at fewer points."""

from pathlib import Path

import pytest
import torch

from passband.data import DataBundle, load_dataset
from passband.data.arrays import Arrays
from passband.studies.downsampled import downsampled_size, resized, write_downsampled


def bundle(*shape: int) -> DataBundle:
    """Twelve noisy examples of two classes: constants 1 and 2."""
    labels = torch.arange(12) % 2
    inputs = 1.0 + labels.reshape(-1, *[1] * len(shape)) + 0.01 * torch.randn(12, *shape)
    arrays = Arrays(inputs, labels, inputs[:6], labels[:6], 2, None)
    return arrays.bundle("name", "source", (torch.zeros(1), torch.ones(1)))


@pytest.mark.parametrize(
    ("size", "compression", "expected"),
    [((8, 8), 0.85, (3, 3)), ((150,), 0.9, (15,)), ((4,), 0.99, (1,)), ((9, 11), 0.0, (9, 11))],
)
def test_size(size: tuple[int, ...], compression: float, expected: tuple[int, ...]) -> None:
    assert downsampled_size(size, compression) == expected


@pytest.mark.parametrize(("shape", "size"), [((1, 9, 7), (4, 3)), ((2, 15), (6,))])
def test_the_file_is_the_same_data_at_fewer_points(
    shape: tuple[int, ...], size: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "small.npz"
    write_downsampled(bundle(*shape), size, path)
    small = load_dataset(f"npz:{path}")
    assert small.input_shape == (shape[0], *size)
    assert (small.num_classes, len(small.train), len(small.test)) == (2, 12, 6)  # type: ignore[arg-type]
    for index in range(6):
        values, label = small.test[index]
        assert label == index % 2
        # Normalised, so that the classes lie at -1 and 1; the noise is a fiftieth of that.
        torch.testing.assert_close(
            values, torch.full_like(values, 2.0 * label - 1), rtol=0, atol=0.2
        )


def test_fine_waves_are_averaged_out() -> None:
    """Antialiasing: what the smaller grid cannot hold vanishes and does not fold back."""
    wave = torch.tensor([1.0, -1.0]).repeat(20).reshape(1, 1, 40)
    # Away from the ends the triangle filter's weights on both signs are equal, to rounding.
    torch.testing.assert_close(
        resized(wave, (10,))[..., 1:-1], torch.zeros(1, 1, 8), rtol=0, atol=1e-6
    )
