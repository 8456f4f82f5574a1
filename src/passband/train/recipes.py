"""How the papers train, as the fields of a `TrainConfig`."""

from typing import Any

from passband.names import unknown_name
from passband.train.config import TrainConfig

RECIPES: dict[str, dict[str, Any]] = {
    "band-limited": {},  # the defaults of TrainConfig
    "specnet": {
        "epochs": 300,
        "batch_size": 128,
        "lr": 0.02,
        "momentum": 0.95,
        "scheduler": "halving",
    },
}


def recipe(name: str, budget: float = 1.0) -> dict[str, Any]:
    """A paper's recipe, with its epochs scaled.

    - "band-limited" (Dziedzic et al., ICML 2019): the defaults of `TrainConfig`.
    - "specnet" (Guan et al., ICASSP 2021): 300 epochs in batches of 128, SGD with momentum 0.95,
      learning rate 0.02, halved every 50 epochs, that is after every sixth of them. The paper names
      no weight decay.

    Args:
        name: Of the paper.
        budget: Fraction of the epochs, above 0.

    Raises:
        ValueError: The name is unknown, or the budget is not above 0.

    Examples:
        >>> recipe("specnet", budget=0.1)["epochs"], TrainConfig(**recipe("specnet")).momentum
        (30, 0.95)
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    if not budget > 0:
        raise ValueError(f"budget is {budget}; it must be above 0")
    fields = {"epochs": TrainConfig.epochs, **RECIPES[name]}
    return {**fields, "epochs": max(1, round(fields["epochs"] * budget))}
