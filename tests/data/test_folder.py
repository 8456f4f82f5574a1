import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from passband.data import DataBundle, load_dataset

CLASSES = ("ant", "bee")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, five training and three validation images each, of several sizes and modes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 3)):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (40 + 3 * index, 50, 3)).astype(np.uint8)
                image = Image.fromarray(pixels if index else pixels[..., 0])
                image.save(tmp_path / part / name / f"{index}.png")
    return tmp_path


def load(folder: Path, augment: bool = False) -> DataBundle:
    return load_dataset(f"folder:{folder}", image_size=24, augment=augment)


def test_images_and_labels(folder: Path) -> None:
    data = load(folder)
    assert (data.input_shape, data.num_classes, data.class_names) == ((3, 24, 24), 2, CLASSES)
    assert data.source == f"{folder / 'train'} and val"
    train, test = list(data.train), list(data.test)  # type: ignore[call-overload]
    assert [label for _, label in train] == [0] * 5 + [1] * 5
    assert [label for _, label in test] == [0] * 3 + [1] * 3
    for image, label in train + test:
        assert (image.shape, image.dtype, type(label)) == ((3, 24, 24), torch.float32, int)
        assert type(image) is torch.Tensor


def test_normalised_by_the_training_part(folder: Path) -> None:
    images = torch.stack([image for image, _ in load(folder).train])
    # sums of 5,760 float32 values per channel
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_the_usual_size_is_224(folder: Path) -> None:
    assert load_dataset(f"folder:{folder}").input_shape == (3, 224, 224)


def test_augmentation_is_reproduced_by_the_seed(folder: Path) -> None:
    data = load(folder, augment=True)

    def image(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return data.train[3][0]

    assert image(1).shape == (3, 24, 24)
    assert torch.equal(image(1), image(1))
    assert not torch.equal(image(1), image(2))
    assert torch.equal(data.test[3][0], data.test[3][0])


def test_a_test_folder_will_do_where_there_is_no_val(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    assert load(folder).source.endswith("and test")


def test_a_relative_path_is_looked_for_in_the_data_folder(folder: Path) -> None:
    data = load_dataset(f"folder:{folder.name}", root=folder.parent, image_size=8)
    assert data.input_shape == (3, 8, 8)


def test_missing_folders_are_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder: /nowhere"):
        load(Path("/nowhere"))
    shutil.rmtree(folder / "val")
    wanted = "wanted are train/CLASS/ and val/CLASS/ or test/CLASS/ with images"
    with pytest.raises(FileNotFoundError, match=f"has no folder test; {wanted}"):
        load(folder)
    shutil.rmtree(folder / "train")
    with pytest.raises(FileNotFoundError, match=f"has no folder train; {wanted}"):
        load(folder)


def test_a_folder_without_classes(folder: Path) -> None:
    for name in CLASSES:
        shutil.rmtree(folder / "train" / name)
    with pytest.raises(ValueError, match="train has no class folders; wanted is one folder of"):
        load(folder)


def test_a_class_without_images(folder: Path) -> None:
    shutil.rmtree(folder / "val" / "bee")
    (folder / "val" / "bee").mkdir()
    with pytest.raises(FileNotFoundError, match="val: Found no valid file for the classes bee"):
        load(folder)


def test_classes_of_one_part_only(folder: Path) -> None:
    (folder / "val" / "bee").rename(folder / "val" / "wasp")
    with pytest.raises(ValueError, match="must have the same class folders; only one has bee, w"):
        load(folder)
