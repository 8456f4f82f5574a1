"""The papers' recipes, and the command that takes them."""

from pathlib import Path

import pytest

from passband.cli import main
from passband.train import TrainConfig, run
from passband.train.recipes import recipe
from passband.train.run_folder import RunFolder


def test_recipes() -> None:
    assert TrainConfig(**recipe("band-limited")) == TrainConfig()
    assert recipe("specnet")["epochs"] == 300
    with pytest.raises(ValueError, match="unknown recipe 'specnett': did you mean 'specnet'"):
        recipe("specnett")
    with pytest.raises(ValueError, match="budget is 0; it must be above 0"):
        recipe("specnet", 0)


def test_the_recipe_of_a_chain_depends_on_the_network() -> None:
    common = recipe("frequency", 0.5, "vgg8")
    assert (common["epochs"], common["lr"], common["shrink_share"]) == (100, 0.1, 0.5)
    assert recipe("frequency", model="mobilenetv2")["lr"] == 0.05
    assert recipe("frequency", model="unet")["optimizer"] == "adam"
    for network in ("vgg8", "mobilenetv2", "unet"):
        fields = recipe("frequency", model=network)
        assert TrainConfig(model=network, method="frequency", keep=0.1, **fields).epochs == 200


def test_the_command_takes_it_and_its_steps_go_with_the_run(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    options = [
        "--model",
        "resnet8",
        "--limit-train",
        "40",
        "--limit-test",
        "20",
        "--batch-size",
        "8",
    ]
    chain = ["train", *options, "--method", "frequency", "--keep", ".1", "--out", out]
    assert main([*chain, "--budget", "0.01"]) == 0
    config = RunFolder(tmp_path / "run").read_config()
    assert (config.epochs, config.lr, config.scheduler) == (2, 0.1, "cosine")
    assert (config.shrink_steps, config.shrink_share) == (5, None)  # half of 2 x 5
    assert main(["train", "--resume", "--epochs", "3", "--out", out]) == 0
    assert RunFolder(tmp_path / "run").read_config().shrink_steps == 5


def test_a_share_is_resumed_with_the_same_words(tmp_path: Path) -> None:
    config = TrainConfig(
        method="frequency", keep=0.1, shrink_share=0.5, epochs=1, limit_train=40, limit_test=20
    )
    run(config, tmp_path, progress=False)
    assert run(config, tmp_path, resume=True, progress=False)["epochs"] == 1
    command = ["train", "--resume", "--shrink-share", "0.5", "--out", str(tmp_path)]
    assert main(command) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shrink_share": 0.0}, "shrink_share is 0.0; allowed is 0 < share <= 1"),
        ({"shrink_share": 0.5, "shrink_steps": 9}, "shrink_steps or shrink_share, not both"),
    ],
)
def test_bad_shares(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(method="frequency", keep=0.1, **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'native', which has no shrink_share"):
        TrainConfig(shrink_share=0.5)
