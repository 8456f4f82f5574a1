"""What happens around the training loop: checkpoints, metrics, step times, the progress bar."""

import csv
import io
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from tqdm import tqdm

from passband.atomic import write_atomically
from passband.convert import FrequencyScheduler
from passband.extras import require
from passband.train.classifier import Classifier
from passband.train.run_folder import RunFolder

WARM_UP_STEPS = 3
TIMED_STEPS = 100


class Recorder(Checkpoint):
    """Writes checkpoints, metrics.csv and TensorBoard events.

    Lightning calls a `Checkpoint` last, so the epoch is complete when it is written down.

    Args:
        folder: Where to write.
        begin_folder: Makes it, after the first step: a training that cannot start leaves nothing.
        checkpoint_every: Steps between checkpoints within an epoch; None: only at its end.
        announce: Whether to print a line per epoch.
    """

    def __init__(
        self,
        folder: RunFolder,
        begin_folder: Callable[[], None],
        *,
        checkpoint_every: int | None = None,
        announce: bool = False,
    ) -> None:
        self.folder = folder
        self.begin_folder = begin_folder
        self.checkpoint_every = checkpoint_every
        self.announce = announce
        self._events: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where a resumed run goes on."""
        classifier = _classifier(pl_module)
        epoch, step = classifier.epoch, classifier.next_batch
        if trainer.is_global_zero and self.announce and (epoch or step):
            print(f"resuming at epoch {epoch + 1}, step {step + 1}")

    def _begin(self, classifier: Classifier) -> None:
        """Bring the files to where the training is; a killed process may have been further."""
        if self._events is not None:
            return
        tensorboard = require("torch.utils.tensorboard", extra="train")
        self.begin_folder()
        self._events = tensorboard.SummaryWriter(
            self.folder.tensorboard, purge_step=classifier.epoch or None
        )
        self.write_metrics(classifier)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write a checkpoint within an epoch; at its end one follows anyway."""
        if trainer.is_global_zero:
            self._begin(_classifier(pl_module))
        if (
            self.checkpoint_every is not None
            and trainer.global_step % self.checkpoint_every == 0
            and batch_idx + 1 < trainer.num_training_batches
        ):
            trainer.save_checkpoint(self.folder.last)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch down.

        The best weights first: should the process die before the last checkpoint is there, the
        epoch is trained again and they are written again.
        """
        history = _classifier(pl_module).history
        column = f"{chosen_by(history[-1])}_accuracy"
        rivals = [row for row in history if _has_final_size(row, trainer, pl_module)]
        if history[-1] in rivals and all(
            row[column] < history[-1][column] for row in rivals if row is not history[-1]
        ):
            trainer.save_checkpoint(self.folder.best, weights_only=True)
        trainer.save_checkpoint(self.folder.last)
        if trainer.is_global_zero:
            self.write_metrics(_classifier(pl_module))
            row = dict(history[-1])
            epoch = int(row.pop("epoch"))
            for name, value in row.items():
                self._events.add_scalar(name, value, epoch)
            self._events.flush()
            if self.announce:
                tqdm.write(epoch_line(history[-1], trainer.max_epochs or 0))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()

    def write_metrics(self, classifier: Classifier) -> None:
        """Write metrics.csv anew from the history, so that it holds every epoch once."""
        parts = ("train", *classifier.parts)
        columns = [f"{part}_{what}" for part in parts for what in ("loss", "accuracy")]
        text = io.StringIO()
        writer = csv.DictWriter(
            text, ["epoch", *columns, "learning_rate", "seconds"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(classifier.history)
        write_atomically(self.folder.metrics, text.getvalue().encode())


class Shrink(Callback):
    """Shrinks a network of method "frequency" with the training's steps.

    The number of steps done says how far; what is kept is part of the network's weights.
    """

    def __init__(self) -> None:
        self._scheduler: FrequencyScheduler | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the checkpoint is."""
        alone = trainer.world_size == 1  # otherwise parameters keep the shapes that are shared
        optimizer = trainer.optimizers[0] if alone else None
        self._scheduler = FrequencyScheduler(_classifier(pl_module).model, optimizer)
        self._scheduler.set_step(trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Go on by a step."""
        assert self._scheduler is not None
        self._scheduler.set_step(trainer.global_step)


class StepTimer(Callback):
    """Times training steps: loss, gradients and update, without loading data.

    The first steps of a process warm up and count only where there are no others. After a hundred
    no more are timed: waiting for the accelerator would slow the whole training.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.warm_up: list[float] = []
        self._steps = 0
        self._started = 0.0

    @property
    def median_milliseconds(self) -> float:
        """Median time per step."""
        return 1000 * statistics.median(self.seconds or self.warm_up)

    def state_dict(self) -> dict[str, Any]:
        """The times so far, for the checkpoint."""
        return {"seconds": self.seconds, "warm_up": self.warm_up}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the times of earlier processes."""
        self.seconds, self.warm_up = state_dict["seconds"], state_dict["warm_up"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock."""
        if len(self.seconds) < TIMED_STEPS:
            self._started = _now(pl_module.device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop the clock."""
        if len(self.seconds) < TIMED_STEPS:
            self._steps += 1
            timed = self.warm_up if self._steps <= WARM_UP_STEPS else self.seconds
            timed.append(_now(pl_module.device) - self._started)


class EpochBar(ProgressBar):
    """One bar for the epoch that is trained, gone when the epoch is done."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls this in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a bar with the first batch that this process trains in an epoch."""
        if self._bar is None and self._enabled:
            self._bar = tqdm(
                desc=f"epoch {_classifier(pl_module).epoch + 1}/{trainer.max_epochs}",
                total=int(self.total_train_batches),
                initial=batch_idx,
                leave=False,
                dynamic_ncols=True,
                unit="step",
                file=sys.stderr,
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that the epoch is being evaluated."""
        if self._bar is not None:
            self._bar.set_postfix_str("evaluating")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the bar away, so that a message starts on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _has_final_size(row: dict[str, float], trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether the network had stopped shrinking at the end of an epoch: those before are larger."""
    config = _classifier(pl_module).config
    if config.method != "frequency":
        return True
    return (row["epoch"] + 1) * trainer.num_training_batches >= config.frequency.total_steps


def chosen_by(row: dict[str, float]) -> str:
    """The part whose accuracy chooses the best epoch: "validation" where there is one."""
    return "validation" if "validation_accuracy" in row else "test"


def epoch_line(row: dict[str, float], epochs: int) -> str:
    """An epoch in one line.

    Examples:
        >>> epoch_line({"epoch": 0, "train_loss": 1.2, "train_accuracy": 0.5, "test_loss": 1.1,
        ...             "test_accuracy": 0.625, "learning_rate": 0.01, "seconds": 2.5}, 20)
        'epoch  1/20   train 50.0 % (loss 1.200)   test 62.5 % (loss 1.100)   lr 0.01   2.5 s'
    """
    count = str(epochs)
    parts = [f"epoch {int(row['epoch']) + 1:>{len(count)}}/{count}"]
    for part in ("train", "validation", "test"):
        if f"{part}_loss" in row:
            accuracy = f"{100 * row[f'{part}_accuracy']:.1f} %"
            parts.append(f"{part} {accuracy} (loss {row[f'{part}_loss']:.3f})")
    parts += [f"lr {row['learning_rate']:.3g}", f"{row['seconds']:.1f} s"]
    return "   ".join(parts)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _classifier(pl_module: LightningModule) -> Classifier:
    assert isinstance(pl_module, Classifier)
    return pl_module
