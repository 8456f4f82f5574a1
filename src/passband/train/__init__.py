"""Training: from a config to a run folder, resumed at any point, and back to the network."""

from passband.train.config import TrainConfig
from passband.train.evaluation import evaluate, load_run
from passband.train.run import run

__all__ = ["TrainConfig", "evaluate", "load_run", "run"]
