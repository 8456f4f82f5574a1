import os
import random
import signal
import time
from pathlib import Path

import pytest

from passband.train import TrainConfig
from passband.train.run_folder import RunFolder
from tests.train.killed import (
    assert_same,
    metrics,
    start,
    train_to_end,
    weights,
    write_images,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    images = tmp_path_factory.mktemp("data") / "images.npz"
    write_images(images)
    # 100 images in batches of 11: nine steps per epoch, and one image left over, which sits out.
    return TrainConfig(
        data=f"npz:{images}",
        model="resnet8",
        method="band-limited",
        compression=0.5,
        epochs=3,
        batch_size=11,
        momentum=0.9,
        seed=3,
    )


@pytest.fixture(scope="module")
def undisturbed(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    train_to_end(config, out)
    return out


def assert_as_undisturbed(out: Path, undisturbed: Path) -> None:
    for folder in (".", "checkpoints"):  # nothing half written is left
        names = [{path.name for path in (run / folder).iterdir()} for run in (out, undisturbed)]
        assert names[0] == names[1]
    assert_same(weights(out), weights(undisturbed))
    assert metrics(out) == metrics(undisturbed)
    found, expected = RunFolder(out).read_result(), RunFolder(undisturbed).read_result()
    assert found is not None and expected is not None
    timed = ("seconds", "step_milliseconds")
    assert_same(
        {key: value for key, value in found.items() if key not in timed},
        {key: value for key, value in expected.items() if key not in timed},
    )


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    config: TrainConfig, undisturbed: Path, tmp_path: Path
) -> None:
    moments = random.Random(0)
    kills, longest = 0, 2.0
    out = tmp_path / "0"
    for attempt in range(1, 100):
        begun = time.monotonic()
        process = start(config, out)
        process.join(moments.uniform(0.0, longest))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if kills == 6:
            break
        if process.exitcode == 0:  # it was too fast: again, and sooner
            longest = time.monotonic() - begun
            out = tmp_path / str(attempt)
    assert kills == 6
    train_to_end(config, out)
    assert_as_undisturbed(out, undisturbed)


@pytest.mark.parametrize(
    "call", ["before replace", "after replace", "after fsync", "half save_file", "after save_file"]
)
def test_a_run_killed_while_it_writes_a_file_ends_as_if_it_had_not_been(
    call: str, config: TrainConfig, undisturbed: Path, tmp_path: Path
) -> None:
    for die_at in (1, 4, 3):
        process = start(config, tmp_path, die_in=call, die_at=die_at)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    train_to_end(config, tmp_path)
    assert_as_undisturbed(tmp_path, undisturbed)
