"""Training a classifier: the step, its sums, the optimizer and the learning rate."""

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from passband.train.config import TrainConfig
from passband.train.random_state import (
    gather,
    get_random_state,
    seed_generators,
    set_random_state,
)
from passband.train.sampling import IGNORED_LABEL

STATE = "passband"  # this module's entry in a checkpoint


class Classifier(LightningModule):
    """A network trained with cross entropy, and how far its training has come.

    Args:
        model: From (B, C, ...) to (B, classes).
        config: Optimizer, learning rate and schedule.
        has_validation: Whether a validation part is evaluated before the test part.
        teacher: A trained network whose scores are learned too.

    Attributes:
        epoch: The epoch that is being trained, or comes next.
        next_batch: The batch of that epoch that comes next.
        history: One row of metrics per finished epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        has_validation: bool,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._teacher = (teacher,)  # in a tuple: no part of this module, its weights or its mode
        self.config = config
        self.parts = ("validation", "test") if has_validation else ("test",)
        self.epoch = 0
        self.next_batch = 0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._seconds = 0.0  # of this epoch, in earlier processes
        self._started = 0.0
        self._plateau: ReduceLROnPlateau | None = None
        self._restored: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer. Its learning rate is set here and not by Lightning.

        Lightning steps a schedule that watches a metric only after the last hook that can write a
        checkpoint.
        """
        optimizer = make_optimizer(self.model, self.config)
        if self.config.scheduler == "plateau":
            self._plateau = ReduceLROnPlateau(optimizer)
        return optimizer

    def on_train_start(self) -> None:
        """Set the random generators, after all preparations that may have drawn from them."""
        self._started = time.perf_counter()
        rank = self.trainer.global_rank
        if self._restored is None:
            seed_generators("training", self.config.seed, rank)
            return
        if len(self._restored["random"]) != self.trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(self._restored['random'])} processes and this is a "
                f"training with {self.trainer.world_size}; resume with as many devices"
            )
        if self._plateau is not None:
            self._plateau.load_state_dict(self._restored["plateau"])
        if (sums := self._restored["train_sums"][rank]) is not None:
            self._sums["train"] = sums.to(self.device)
        set_random_state(self._restored["random"][rank], self.device)
        self._restored = None

    def on_train_epoch_start(self) -> None:
        """Set the learning rate of schedules that depend on the epoch alone."""
        if self.config.scheduler in ("cosine", "step", "halving"):
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = scheduled_lr(self.config, self.epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean cross entropy of a batch, over its examples or all their points."""
        scores, loss = self._evaluate("train", batch)
        self.next_batch = batch_idx + 1
        loss = loss / batch[1].numel()
        (teacher,) = self._teacher
        if teacher is None:
            return loss
        return self._with_teacher(loss, scores, teacher, batch[0])

    def _with_teacher(
        self, loss: Tensor, scores: Tensor, teacher: nn.Module, inputs: Tensor
    ) -> Tensor:
        """The loss with the divergence of the softened scores from the teacher's.

        Source: Hinton et al., Distilling the knowledge in a neural network (2015).
        """
        with torch.no_grad():
            wanted = teacher.to(inputs.device).eval()(inputs)
        heat, weight = self.config.temperature, self.config.teacher_weight
        own, wanted = F.log_softmax(scores / heat, 1), F.log_softmax(wanted / heat, 1)
        divergence = F.kl_div(own, wanted, reduction="sum", log_target=True)
        points = scores.numel() // scores.shape[1]
        return (1 - weight) * loss + weight * heat**2 * divergence / points

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add a batch to the sums of the part it comes from."""
        self._evaluate(self.parts[dataloader_idx], batch)

    def on_train_epoch_end(self) -> None:
        """Add the epoch to the history, and move on to the next."""
        row: dict[str, float] = {"epoch": self.epoch}
        for part in ("train", *self.parts):
            total = self.trainer.strategy.reduce(self._sums[part], reduce_op="sum")
            assert isinstance(total, Tensor)
            loss, correct, count = total.tolist()
            row |= {f"{part}_loss": loss / count, f"{part}_accuracy": correct / count}
        row["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = self._elapsed()
        if self._plateau is not None:
            watched = "validation" if "validation" in self.parts else "train"
            self._plateau.step(row[f"{watched}_loss"])
        self.history.append(row)
        self.epoch, self.next_batch = self.epoch + 1, 0
        self._sums.clear()
        self._seconds, self._started = 0.0, time.perf_counter()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know."""
        sums = self._sums.get("train")
        checkpoint[STATE] = {
            "epoch": self.epoch,
            "next_batch": self.next_batch,
            "history": self.history,
            "seconds": self._elapsed(),
            "plateau": None if self._plateau is None else self._plateau.state_dict(),
            "train_sums": gather(None if sums is None else sums.cpu()),
            "random": gather(get_random_state(self.device)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what was added; the generators wait until training starts."""
        self._restored = state = checkpoint[STATE]
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]
        self.history = state["history"]
        self._seconds = state["seconds"]

    def _evaluate(self, part: str, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores and summed cross entropy of a batch, which is added to the sums of its part."""
        inputs, labels = batch
        scores = self.model(inputs)
        loss = F.cross_entropy(scores, labels, reduction="sum", ignore_index=IGNORED_LABEL)
        correct = (scores.argmax(1) == labels).sum()
        count = (labels != IGNORED_LABEL).sum()
        batch_sums = torch.stack([loss.detach().float(), correct.float(), count.float()])
        self._sums[part] = self._sums[part] + batch_sums if part in self._sums else batch_sums
        return scores, loss

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._started


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that the config names, over all parameters."""
    parameters, lr, weight_decay = model.parameters(), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, config.momentum, weight_decay=weight_decay)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)


def scheduled_lr(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, for the schedules that depend on nothing else.

    Examples:
        >>> config = TrainConfig(lr=0.1, epochs=4, scheduler="step")
        >>> [round(scheduled_lr(config, epoch), 4) for epoch in range(4)]
        [0.1, 0.1, 0.01, 0.001]
    """
    part = epoch / config.epochs
    if config.scheduler == "cosine":
        return config.lr * (1 + math.cos(math.pi * part)) / 2
    if config.scheduler == "halving":
        return config.lr * 0.5 ** int(6 * part)
    return config.lr * 0.1 ** ((part >= 0.5) + (part >= 0.75))
