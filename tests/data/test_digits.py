import pytest
import torch
from sklearn.datasets import load_digits as bundled_digits

from passband.data import ArrayDataset, load_dataset


def parts() -> tuple[ArrayDataset, ArrayDataset]:
    data = load_dataset("digits")
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.test, ArrayDataset)
    return data.train, data.test


def test_what_the_bundle_says() -> None:
    data = load_dataset("digits")
    assert data.name == "digits"
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert data.class_names == tuple("0123456789")
    assert "scikit-learn" in data.source
    image, label = data.train[0]
    assert image.shape == data.input_shape
    assert label == 0


def test_the_two_parts_are_the_whole_set() -> None:
    train, test = parts()
    whole = bundled_digits()
    images = torch.cat([train.inputs, test.inputs]).flatten(1).tolist()
    assert sorted(images) == sorted(whole.data.astype(int).tolist())
    assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == sorted(whole.target.tolist())


def test_every_fifth_image_of_a_class_is_for_the_test() -> None:
    _, test = parts()
    whole = bundled_digits()
    seen = [0] * 10
    expected = []
    for image, label in zip(whole.data, whole.target, strict=True):
        seen[label] += 1
        if seen[label] % 5 == 0:
            expected.append(image.astype(int).tolist())
    assert test.inputs.flatten(1).tolist() == expected


def test_the_split_is_stratified_and_the_same_for_ever() -> None:
    train, test = parts()
    counts = torch.bincount(test.labels), torch.bincount(train.labels)
    assert counts[0].tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert counts[1].tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert test.labels[:12].tolist() == [5, 0, 9, 8, 7, 1, 2, 6, 3, 4, 0, 2]
    assert int(test.inputs.sum()) == 111152


def test_the_training_part_has_mean_0_and_deviation_1() -> None:
    train, test = parts()
    images = torch.stack([image for image, _ in train])
    # sums of 92,288 float32 values
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(test.mean, train.mean)
    assert torch.equal(test.std, train.std)


def test_digits_are_not_augmented() -> None:
    train = load_dataset("digits", augment=True).train
    assert torch.equal(train[3][0], train[3][0])
    assert torch.equal(train[3][0], load_dataset("digits").train[3][0])
