import os
import shutil
from pathlib import Path

import aeon.datasets
import numpy as np
import pytest
import torch

from passband.data import ArrayDataset, DataBundle, load_dataset
from passband.data.series import normalise

DATA = Path(os.environ.get("PASSBAND_DATA", "nowhere"))
BUNDLED = Path(aeon.datasets.__path__[0]) / "data"
NAN = float("nan")


def datasets(data: DataBundle) -> tuple[ArrayDataset, ArrayDataset]:
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.test, ArrayDataset)
    return data.train, data.test


def write_tsv(root: Path, train: str, test: str) -> None:
    folder = root / "ucr" / "Mine"
    folder.mkdir(parents=True)
    (folder / "Mine_TRAIN.tsv").write_text(train)
    (folder / "Mine_TEST.tsv").write_text(test)


def nearest_neighbour_error(data: DataBundle) -> float:
    train, test = datasets(data)
    nearest = torch.cdist(test.inputs.flatten(1), train.inputs.flatten(1)).argmin(1)
    return (train.labels[nearest] != test.labels).double().mean().item()


BUNDLED_SETS = {
    # name: shape of a series, classes, series for training and for the test
    "ACSF1": ((1, 1460), 10, 100, 100),
    "ArrowHead": ((1, 251), 3, 36, 175),
    "BasicMotions": ((6, 100), 4, 40, 40),
    "GunPoint": ((1, 150), 2, 50, 150),
    "ItalyPowerDemand": ((1, 24), 2, 67, 1029),
    "PickupGestureWiimoteZ": ((1, 361), 10, 50, 50),
}


@pytest.mark.parametrize("name", BUNDLED_SETS)
def test_the_sets_bundled_with_aeon(offline: Path, name: str) -> None:
    shape, classes, train_count, test_count = BUNDLED_SETS[name]
    data = load_dataset(f"ucr:{name}")
    assert data.name == f"ucr:{name}"
    assert data.source == "bundled with aeon"
    assert (data.input_shape, data.num_classes) == (shape, classes)
    train, test = datasets(data)
    assert (len(train), len(test)) == (train_count, test_count)
    for dataset in (train, test):
        assert set(dataset.labels.tolist()) == set(range(classes))
        series, label = dataset[0]
        assert (series.shape, series.dtype, type(label)) == (shape, torch.float32, int)
        assert torch.isfinite(dataset.inputs).all()
        # sums of float32 values; PickupGestureWiimoteZ is padded with zeros
        assert dataset.inputs.mean(-1).abs().max() < 1e-5
        if name != "PickupGestureWiimoteZ":
            assert (dataset.inputs.std(-1) - 1).abs().max() < 1e-5


def test_normalised_series_of_the_archive_stay_as_they_are(offline: Path) -> None:
    archive, _ = aeon.datasets.load_from_ts_file(str(BUNDLED / "GunPoint" / "GunPoint_TRAIN.ts"))
    train, _ = datasets(load_dataset("ucr:GunPoint"))
    # the archive's file has seven or eight digits
    assert np.abs(train.inputs.numpy() - archive).max() < 1e-5


def test_the_published_nearest_neighbour_error_of_gunpoint(offline: Path) -> None:
    assert nearest_neighbour_error(load_dataset("ucr:GunPoint")) == pytest.approx(13 / 150)


@pytest.mark.skipif(
    not (DATA / "ucr" / "FiftyWords").is_dir(), reason="no ucr/FiftyWords in PASSBAND_DATA"
)
def test_the_published_nearest_neighbour_error_of_fifty_words() -> None:
    data = load_dataset("ucr:FiftyWords")
    assert data.source == str(DATA / "ucr" / "FiftyWords")
    assert (data.input_shape, data.num_classes) == ((1, 270), 50)
    assert nearest_neighbour_error(data) == pytest.approx(0.3692, abs=5e-5)  # four digits


@pytest.mark.skipif(
    not (DATA / "ucr" / "DodgerLoopDay").is_dir(), reason="no ucr/DodgerLoopDay in PASSBAND_DATA"
)
def test_a_real_set_with_missing_values() -> None:
    train, test = datasets(load_dataset("ucr:DodgerLoopDay"))
    for dataset in (train, test):
        assert torch.isfinite(dataset.inputs).all()
        assert dataset.inputs.abs().max() < 20


def test_a_set_in_the_data_folder_comes_first(tmp_path: Path, offline: Path) -> None:
    write_tsv(tmp_path, "1\t0.5\t1.5\t4\n2\t1\t2\t0\n", "2\t3\t2\t2\n")
    (tmp_path / "ucr" / "Mine").rename(tmp_path / "ucr" / "GunPoint")
    for part in ("TRAIN", "TEST"):
        folder = tmp_path / "ucr" / "GunPoint"
        (folder / f"Mine_{part}.tsv").rename(folder / f"GunPoint_{part}.tsv")
    data = load_dataset("ucr:GunPoint", root=tmp_path)
    assert data.source == str(tmp_path / "ucr" / "GunPoint")
    assert data.input_shape == (1, 3)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("10", "2", "-1", "2"), ("-1", "2", "10")),
        (("1.0", "0", "1", "0.5"), ("0", "0.5", "1")),
        (("1234567", "1234568", "3", "3"), ("3", "1234567", "1234568")),
    ],
)
def test_labels_become_0_to_k_in_sorted_order(
    tmp_path: Path, labels: tuple[str, ...], names: tuple[str, ...]
) -> None:
    lines = [f"{label}\t1\t2\t4\n" for label in labels]
    write_tsv(tmp_path, "".join(lines[:3]), lines[3])
    data = load_dataset("ucr:Mine", root=tmp_path)
    train, test = datasets(data)
    assert data.class_names == names
    assert data.num_classes == len(names)
    found = [float(names[label]) for label in [*train.labels.tolist(), *test.labels.tolist()]]
    assert found == [float(label) for label in labels]


def test_labels_that_are_no_numbers_are_sorted_by_alphabet(offline: Path) -> None:
    data = load_dataset("ucr:BasicMotions")
    assert data.class_names == ("badminton", "running", "standing", "walking")


def test_series_are_not_augmented(offline: Path) -> None:
    train, _ = datasets(load_dataset("ucr:GunPoint", augment=True))
    assert train.transform is None


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([1, 2, 3], [-1, 0, 1]),
        ([5, 5, 5], [0, 0, 0]),
        ([1, NAN, 3], [-1, 0, 1]),  # a gap is interpolated
        ([NAN, 1, 2, 3, NAN, NAN], [0, -1, 0, 1, 0, 0]),  # the ends become the mean
        ([NAN, NAN, NAN], [0, 0, 0]),
        ([NAN, 7, NAN], [0, 0, 0]),
        ([1e9 + 1, 1e9 + 2, 1e9 + 3], [-1, 0, 1]),
    ],
)
def test_normalisation_and_missing_values(series: list[float], expected: list[float]) -> None:
    both = np.array([[series], [[4 * value for value in series]]], dtype=float)
    result = normalise(both)
    assert result.dtype == np.float32
    assert result[:, 0].tolist() == [expected, expected]


def test_shorter_series_are_padded_with_zeros(tmp_path: Path) -> None:
    write_tsv(tmp_path, "1\t1\t2\t3\n2\t1\t2\t4\n", "1\t1\t2\t3\t2\t2\n")
    train, test = datasets(load_dataset("ucr:Mine", root=tmp_path))
    assert train[0][0].tolist() == [[-1, 0, 1, 0, 0]]
    assert test[0][0].shape == (1, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"Mine_TEST\.tsv is empty; a line is a label and the values, between tabs"),
        ("1\n2\n", r"Mine_TEST\.tsv has no values; a line is a label"),
        ("1\t2\t3\n1\t2\n", r"Mine_TEST\.tsv cannot be read \(.*columns.*\); a line is a label"),
        ("1\ttwo\n", r"Mine_TEST\.tsv cannot be read \(.*'two'.*\); a line is a label"),
        ("1\t2\tinf\n", r"Mine_TEST\.tsv holds infinite values; write NaN for a missing one"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    write_tsv(tmp_path, "1\t2\t3\n", content)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("ucr:Mine", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_tsv(tmp_path, "1\t2\t3\n", "")
    (tmp_path / "ucr" / "Mine" / "Mine_TEST.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*Mine_TEST\.tsv; a set is"):
        load_dataset("ucr:Mine", root=tmp_path)


def test_an_unknown_set_gets_the_closest_name(tmp_path: Path, offline: Path) -> None:
    with pytest.raises(ValueError, match=r"'gunpoints': did you mean 'GunPoint'\? 158"):
        load_dataset("ucr:gunpoints")
    write_tsv(tmp_path, "1\t2\t3\n", "1\t2\t3\n")
    with pytest.raises(ValueError, match=r"unknown UCR set 'mine': did you mean 'Mine'\?"):
        load_dataset("ucr:mine", root=tmp_path)


def test_a_refused_download_says_where_to_put_the_files(offline: Path) -> None:
    message = (
        r"ucr:Coffee is not here and could not be downloaded \(.*\): put "
        r"ucr/Coffee/Coffee_TRAIN\.tsv and Coffee_TEST\.tsv into a folder and set PASSBAND_DATA"
    )
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load_dataset("ucr:Coffee")
    assert "\n" not in str(caught.value)
    assert not list((offline / "ucr").iterdir())  # nothing half-done stays


def test_downloads_can_be_switched_off(offline: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Coffee is not here and downloads are switched"):
        load_dataset("ucr:Coffee", download=False)


def test_a_download_is_kept(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def served(name: str, split: str, extract_path: str) -> None:
        """What aeon does: the set's files in a folder of its name."""
        calls.append(name)
        (Path(extract_path) / name).mkdir()
        for part in ("TRAIN", "TEST"):
            target = Path(extract_path) / name / f"{name}_{part}.ts"
            shutil.copy(BUNDLED / "GunPoint" / f"GunPoint_{part}.ts", target)

    monkeypatch.setattr(aeon.datasets, "load_classification", served)
    data = load_dataset("ucr:Coffee")
    assert data.source == f"downloaded by aeon to {offline / 'ucr' / 'Coffee'}"
    assert data.input_shape == (1, 150)
    load_dataset("ucr:Coffee", download=False)
    assert calls == ["Coffee"]
    assert [entry.name for entry in (offline / "ucr").iterdir()] == ["Coffee"]
