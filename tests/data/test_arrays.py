from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from passband.data.arrays import ArrayDataset, channel_statistics, image_augmentation


def photographs(count: int = 7, channels: int = 3, size: int = 11) -> ArrayDataset:
    inputs = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)
    return ArrayDataset(inputs, torch.arange(count) % 3, *channel_statistics(inputs))


@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (4, 2, 13), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_statistics_are_the_mean_and_deviation_of_each_channel(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    inputs = (torch.rand(shape) * 255).to(dtype)
    mean, std = channel_statistics(inputs)
    assert mean.shape == std.shape == (shape[1],) + (1,) * (len(shape) - 2)
    for channel in range(shape[1]):
        values = inputs[:, channel].double().flatten()
        # float32 results of a float64 computation: one rounding, 6e-8
        assert mean[channel].item() == pytest.approx(values.mean().item(), rel=1e-7)
        assert std[channel].item() == pytest.approx(values.std(correction=0).item(), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_constant_channel_is_not_scaled(dtype: torch.dtype) -> None:
    inputs = torch.full((3, 2, 5, 5), 77.7).to(dtype)
    mean, std = channel_statistics(inputs)
    assert torch.equal(mean.flatten(), inputs[0, :, 0, 0].float())
    assert torch.equal(std, torch.ones(2, 1, 1))


def test_an_item_is_normalised_float32_and_an_int() -> None:
    dataset = photographs()
    image, label = dataset[4]
    assert type(label) is int
    assert label == 1
    assert image.dtype == torch.float32
    expected = (dataset.inputs[4].float() - dataset.mean) / dataset.std
    assert torch.equal(image, expected)
    assert len(dataset) == 7


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_taking_items_leaves_the_data_as_it_is(dtype: torch.dtype) -> None:
    dataset = photographs()
    dataset.inputs = dataset.inputs.to(dtype)
    before = dataset.inputs.clone()
    dataset[0], dataset.__getitems__([1, 2])
    assert torch.equal(dataset.inputs, before)
    assert dataset.inputs.dtype == dtype


@pytest.mark.parametrize("augment", [False, True])
def test_a_batch_is_its_items(augment: bool) -> None:
    dataset = photographs()
    if augment:
        dataset.transform = image_augmentation((11, 11), flip=True)
    order = [5, 0, 3, 3]
    torch.manual_seed(1)
    items = [dataset[index] for index in order]
    torch.manual_seed(1)
    batch = dataset.__getitems__(order)
    assert [label for _, label in batch] == [label for _, label in items]
    assert all(type(label) is int for _, label in batch)
    for (image, _), (expected, _) in zip(batch, items, strict=True):
        assert torch.equal(image, expected)


def test_a_loader_gives_every_item_once() -> None:
    dataset = photographs(count=10)
    images, labels = zip(*DataLoader(dataset, batch_size=4), strict=True)
    assert torch.equal(torch.cat(images), torch.stack([dataset[i][0] for i in range(10)]))
    assert torch.equal(torch.cat(labels), dataset.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_is_reproduced_by_the_seed(workers: int) -> None:
    dataset = photographs(count=24)
    dataset.transform = image_augmentation((11, 11), flip=True)

    def epoch(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([x for x, _ in DataLoader(dataset, batch_size=8, num_workers=workers)])

    first = epoch(3)
    assert torch.equal(first, epoch(3))
    assert not torch.equal(first, epoch(4))


def crops(image: Tensor) -> list[Tensor]:
    """Every crop of the image padded with 4 zeros on each side."""
    size = image.shape[-1]
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    return [padded[:, i : i + size, j : j + size] for i in range(9) for j in range(9)]


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_crops_the_padded_image_and_flips_where_wanted(flip: bool) -> None:
    image = torch.randint(0, 256, (3, 11, 11), dtype=torch.uint8)
    transform: Callable[[Tensor], Tensor] = image_augmentation((11, 11), flip=flip)
    plain, mirrored = crops(image), crops(image.flip(-1))
    drawn = [transform(image) for _ in range(60)]
    is_plain = [any(torch.equal(x, crop) for crop in plain) for x in drawn]
    is_mirrored = [any(torch.equal(x, crop) for crop in mirrored) for x in drawn]
    assert all(a or b for a, b in zip(is_plain, is_mirrored, strict=True))
    assert any(is_plain)
    assert any(is_mirrored) == flip
    assert len({tuple(x.flatten().tolist()) for x in drawn}) > 20
