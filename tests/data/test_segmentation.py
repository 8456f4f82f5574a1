from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from passband.data import load_dataset


def write(folder: Path, count: int, colour: bool = False) -> None:
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        shape = (20, 30, 3) if colour else (20, 30)
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        mask = np.zeros((20, 30), np.uint8)
        mask[:, index:] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{index:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index:02}.png")


@pytest.mark.parametrize("colour", [False, True])
def test_images_with_their_masks(tmp_path: Path, colour: bool) -> None:
    write(tmp_path / "segmentation" / "lines", 11, colour)
    data = load_dataset("segmentation:lines", root=tmp_path, image_size=16)
    channels = 3 if colour else 1
    assert data.input_shape == (channels, 16, 16) and data.num_classes == 2
    assert len(data.train) == 9 and len(data.test) == 2  # type: ignore[arg-type]
    image, mask = data.test[0]  # number 4: 26 of 30 columns are foreground
    assert image.dtype == torch.float32 and image.shape == (channels, 16, 16)
    assert mask.dtype == torch.int64 and mask.shape == (16, 16)
    assert mask.float().mean().item() == pytest.approx(26 / 30, abs=1 / 16)
    means = torch.stack([image for image, _ in data.train])  # type: ignore[attr-defined]
    assert means.mean().abs() < 1e-5 and means.std() == pytest.approx(1, abs=1e-3)


def test_an_image_and_its_mask_are_flipped_together(tmp_path: Path) -> None:
    folder = tmp_path / "segmentation" / "same"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    mask = np.zeros((16, 16), np.uint8)
    mask[:4, :7] = 255
    for index in range(5):
        for part in ("images", "masks"):
            Image.fromarray(mask).save(folder / part / f"{index}.png")
    data = load_dataset("segmentation:same", root=tmp_path, image_size=16, augment=True)
    torch.manual_seed(0)
    corners = set()
    for _ in range(40):
        image, found = data.train[0]
        assert torch.equal(image[0] > 0, found == 1)
        corners.add((bool(found[0, 0]), bool(found[0, -1]), bool(found[-1, 0])))
    assert len(corners) == 4


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"segmentation:none is not here .* put"):
        load_dataset("segmentation:none", root=tmp_path)
    write(tmp_path / "segmentation" / "few", 3)
    with pytest.raises(ValueError, match="has 3 PNG files; wanted are 5 or more"):
        load_dataset("segmentation:few", root=tmp_path)
    write(tmp_path / "segmentation" / "some", 6)
    (tmp_path / "segmentation" / "some" / "masks" / "02.png").unlink()
    with pytest.raises(ValueError, match=r"02.png has no mask: there is no"):
        load_dataset("segmentation:some", root=tmp_path)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(
        tmp_path / "segmentation" / "some" / "masks" / "02.png"
    )
    with pytest.raises(ValueError, match=r"\(5, 5\) pixels and .* \(30, 20\); they must have"):
        load_dataset("segmentation:some", root=tmp_path)
