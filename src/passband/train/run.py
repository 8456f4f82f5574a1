"""One training run, from a config to its result."""

from functools import partial
from pathlib import Path
from typing import Any

from passband.atomic import check_destination
from passband.extras import require
from passband.train.config import TrainConfig
from passband.train.evaluation import best_device, make_model
from passband.train.parts import load_parts, size, with_shrink_steps
from passband.train.result import conclude
from passband.train.run_folder import RunFolder, check_same_run, logger, write_json


def run(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int | None = None,
) -> dict[str, Any]:
    """Train a network, and write everything about it into a folder.

    The folder gets config.json (what reproduces the run), metrics.csv (one row per epoch),
    checkpoints/last.safetensors and best.safetensors, tensorboard/, and in the end result.json. It
    is begun after the first step: a training that cannot start leaves nothing behind.

    A run that was killed at any moment and resumed ends with the same weights as one that was not:
    bit for bit on a CPU. Sets the global random generators.

    `test_accuracy` of the result is that of the last epoch. The best epoch is chosen on the test
    data where nothing is held out (the archives have no validation part), so its accuracy is too
    good to be quoted. With `validation` in the config the best epoch is chosen on the held out
    part, and `test_accuracy` is that of the best.

    Args:
        config: What to train, and how.
        out: The run's folder; made if it is not there.
        resume: Go on with the run in `out`, with the same config or with more epochs. A finished
            run is left as it is. Where there is no run, one begins.
        progress: Print a line per epoch, and show a bar on a terminal.
        checkpoint_every: Steps between checkpoints within an epoch; None writes them at its end.

    Returns:
        The contents of result.json: test_accuracy and test_loss (of the checkpoint named
        `checkpoint`), last and best (epoch and metrics of each), best_chosen_on, epochs, steps,
        parameters, step_milliseconds (median), saved_bytes (of one training step),
        realised_compression (mean over the band-limited layers), layers (one dict each), device,
        seconds. With several processes, that of the first; the others return an empty dict.

    Raises:
        FileExistsError: `out` holds a run and `resume` is not given.
        OSError: `out` cannot be written to, or there is no teacher.
        ValueError: A name is unknown, the config does not fit the data or the machine, or another
            config is resumed.
        ImportError: A package is missing; the message names the extra.
    """
    rank_zero = require("lightning.pytorch.utilities", extra="train").rank_zero_only
    # Lightning starts the other processes from the first, which has prepared the folder for them.
    is_first: bool = rank_zero.rank == 0
    folder = RunFolder(Path(out))
    check_destination(folder.path, is_folder=True)
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every is {checkpoint_every}; it must be at least 1")
    if config.precision == "16-mixed" and best_device().type == "cpu":
        raise ValueError("precision is '16-mixed', which a CPU cannot do; use 'bf16-mixed' or '32'")
    parts = None
    if config.shrink_share is not None:
        parts = load_parts(config)
        config = with_shrink_steps(config, parts)
    known = folder.read_config() if is_first and folder.holds_run else None
    if known is not None:
        if not resume:
            raise FileExistsError(f"{folder.path} holds a run: resume it, or choose another folder")
        check_same_run(known, config)
        result = folder.read_result()
        if result is not None and result["epochs"] >= config.epochs:
            if progress:
                print(f"{folder.path} is finished: {result['epochs']} epochs")
            return result
        if config.strategy.startswith("fsdp"):
            raise ValueError(
                f"cannot resume with strategy {config.strategy!r}, for which Lightning has another "
                "way to read checkpoints; use 'ddp', or train in one go"
            )
    parts = parts or load_parts(config)
    model = make_model(config, parts.bundle)

    from passband.train.loop import Loop

    loop = Loop(config, folder, progress, checkpoint_every, partial(folder.begin, config))
    checkpoint = folder.good_checkpoint() if resume else None
    if known is not None and checkpoint is None:
        logger.warning("%s has no checkpoint: the run begins again", folder.path)
    if is_first and progress:
        print(f"{config.data}: {parts.bundle.source}")
        print(
            f"{config.model}: {size(parts.train)} examples to train on, {size(parts.test)} to test"
        )
    trained = loop.fit(model, parts, checkpoint)
    if not is_first:
        return {}
    result = conclude(config, folder, parts, trained.history, progress) | {
        "steps": trained.steps,
        "step_milliseconds": trained.step_milliseconds,
        "device": trained.device,
    }
    write_json(folder.result, result)
    return result
