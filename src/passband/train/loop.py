"""The training loop: Lightning's, with this package's data, checkpoints and records."""

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from passband.train.callbacks import EpochBar, Recorder, Shrink, StepTimer
from passband.train.checkpoint_io import SafeCheckpointIO
from passband.train.classifier import Classifier
from passband.train.config import TrainConfig
from passband.train.evaluation import load_run
from passband.train.loaders import Loaders
from passband.train.parts import Parts
from passband.train.run_folder import RunFolder

# Lightning's remarks that say nothing to a user of this package.
SILENCED = (
    ".*does not have many workers.*",  # examples in memory need none
    ".*your dataloader is not resumable.*",  # ours begins where the classifier stopped
    ".*isinstance.treespec, LeafSpec.*",  # of its own code
)


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside its files.

    Args:
        history: One row of metrics per epoch.
        steps: Optimizer steps, those of earlier processes included.
        step_milliseconds: Median time per step.
        device: Where it was trained, as torch names it.
    """

    history: list[dict[str, float]]
    steps: int
    step_milliseconds: float
    device: str


class Loop:
    """The training loop of one run.

    Args:
        config: What to train, and how.
        folder: Where to write.
        progress: Print a line per epoch, and show a bar on a terminal.
        checkpoint_every: Steps between checkpoints within an epoch, or None.
        begin: Makes the folder, after the first step.

    Raises:
        ValueError: The devices or the strategy do not work here.
        FileNotFoundError: There is no teacher in the config's folder.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        progress: bool,
        checkpoint_every: int | None,
        begin: Callable[[], None],
    ) -> None:
        self.config = config
        self.teacher = None if config.teacher is None else _load_teacher(config.teacher)
        self.recorder = Recorder(
            folder, begin, checkpoint_every=checkpoint_every, announce=progress
        )
        self.timer = StepTimer()
        bars = [EpochBar()] if progress and sys.stderr.isatty() else []
        shrink = [Shrink()] if config.method == "frequency" else []
        try:
            with _quiet():
                self.trainer = Trainer(
                    max_epochs=config.epochs,
                    accelerator="auto",
                    devices=config.devices,
                    strategy=config.strategy,
                    precision=config.precision,  # type: ignore[arg-type]  # a Literal there
                    callbacks=[self.timer, *shrink, self.recorder, *bars],
                    plugins=[SafeCheckpointIO(folder)],
                    default_root_dir=folder.path,
                    logger=False,
                    enable_progress_bar=bool(bars),
                    enable_model_summary=False,
                    num_sanity_val_steps=0,
                    use_distributed_sampler=False,  # the loaders know their process themselves
                )
        except (MisconfigurationException, ValueError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise ValueError(
                f"devices {config.devices!r} with strategy {config.strategy!r} do not work here: "
                f"{reason}"
            ) from error

    def fit(self, model: nn.Module, parts: Parts, checkpoint: Path | None) -> Trained:
        """Train a model in place, from a checkpoint on if one is given.

        Raises:
            KeyboardInterrupt: The user interrupted.
            SystemExit: The process was asked to terminate.
        """
        classifier = Classifier(
            model, self.config, has_validation=parts.validation is not None, teacher=self.teacher
        )
        loaders = Loaders(parts, self.config)
        with _quiet(), _plain_exceptions(self.trainer):
            self.trainer.fit(classifier, datamodule=loaders, ckpt_path=checkpoint)
        if self.trainer.is_global_zero:
            # A process may die between the last checkpoint and these.
            self.recorder.begin_folder()
            self.recorder.write_metrics(classifier)
        return Trained(
            history=classifier.history,
            steps=self.trainer.global_step,
            step_milliseconds=self.timer.median_milliseconds,
            device=str(self.trainer.strategy.root_device),
        )


def _load_teacher(folder: str) -> nn.Module:
    try:
        return load_run(folder)[0]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"teacher is {folder!r}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from saying what is of no use to a user, and nothing else."""
    logs = [logging.getLogger(f"lightning.{part}") for part in ("fabric", "pytorch")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in SILENCED:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def _plain_exceptions(trainer: Trainer) -> Iterator[None]:
    """Leave by the exceptions that Python has for an interrupt and a termination."""
    interrupt_handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit:
        if not trainer.interrupted:
            raise
        # Lightning ignores further interrupts from here on, and would exit with 1.
        signal.signal(signal.SIGINT, interrupt_handler)
        raise KeyboardInterrupt from None
