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
    "frequency": {
        "epochs": 200,
        "batch_size": 128,
        "lr": 0.1,
        "scheduler": "cosine",
        "shrink_share": 0.5,
    },
}
_SEGMENTATION = {
    "batch_size": 4,
    "lr": 0.003,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "image_size": 128,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"lr": 0.05, "weight_decay": 4e-5},
    "unet": _SEGMENTATION,
    "unet16": _SEGMENTATION,
}
"""What is otherwise with recipe "frequency" for some networks."""


def recipe(name: str, budget: float = 1.0, model: str | None = None) -> dict[str, Any]:
    """A paper's recipe, with its epochs scaled.

    - "band-limited" (Dziedzic et al., ICML 2019): the defaults of `TrainConfig`.
    - "specnet" (Guan et al., ICASSP 2021): 300 epochs in batches of 128, SGD with momentum 0.95,
      learning rate 0.02, halved every 50 epochs, that is after every sixth of them. The paper names
      no weight decay.
    - "frequency" (Zhao, Dong, Basu 2024, who do not say how they trained): 200 epochs in batches of
      128, SGD, learning rate 0.1 along a cosine, and the block shrinks over the first half of the
      steps, so that the second half trains the network that is left; for `NETWORKS` as stated
      there: a UNet by Adam, in batches of 4.

    Args:
        name: Of the paper.
        budget: Fraction of the epochs, above 0.
        model: The network, where the recipe depends on it.

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
    own = NETWORKS.get(model or "", {}) if name == "frequency" else {}
    fields = {"epochs": TrainConfig.epochs, **RECIPES[name], **own}
    return {**fields, "epochs": max(1, round(fields["epochs"] * budget))}
