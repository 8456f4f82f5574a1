"""The run's data as Lightning takes it."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

from passband.train.classifier import Classifier
from passband.train.config import TrainConfig
from passband.train.parts import Parts, size
from passband.train.sampling import (
    EpochSampler,
    EvaluationItems,
    EvaluationSampler,
    TrainingItems,
)


class Loaders(LightningDataModule):
    """Training batches from any point of the run on, and batches to evaluate on.

    Args:
        parts: The examples.
        config: Batch size, seed and number of loading processes.
    """

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        super().__init__()
        self.parts = parts
        self.config = config

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training part, shuffled anew in every epoch."""
        trainer = self._trainer()
        classifier = trainer.lightning_module
        assert isinstance(classifier, Classifier)
        sampler = EpochSampler(
            size(self.parts.train),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            first_epoch=classifier.epoch,
            first_batch=classifier.next_batch,
        )
        return self._loader(TrainingItems(self.parts.train, self.config.seed), sampler)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Batches of the validation part, if there is one, and of the test part."""
        trainer = self._trainer()
        return [
            self._loader(
                EvaluationItems(part),
                EvaluationSampler(
                    size(part), rank=trainer.global_rank, world_size=trainer.world_size
                ),
            )
            for part in (self.parts.validation, self.parts.test)
            if part is not None
        ]

    def _trainer(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer

    def _loader(self, items: Dataset[Any], sampler: Sampler[Any]) -> DataLoader[Any]:
        workers = self.config.num_workers
        return DataLoader(
            items,
            batch_size=self.config.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self._trainer().strategy.root_device.type == "cuda",
            # Its own, so that making an iterator draws nothing from the global generator.
            generator=torch.Generator(),
        )
