"""The model of a run, and how good it is, at the band it was trained with or another."""

import copy
import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from passband.chain import small_network
from passband.config import BandLimit
from passband.convert import convert
from passband.data import DataBundle
from passband.extras import require
from passband.measure.layers import observe
from passband.measure.macs import BandLimitedConv
from passband.measure.memory import saved_bytes
from passband.networks import create_model
from passband.train.checkpoint_file import read_checkpoint
from passband.train.config import TrainConfig
from passband.train.dice import Dice
from passband.train.parts import Parts, load_parts, size
from passband.train.random_state import seed_generators
from passband.train.run_folder import RunFolder
from passband.train.sampling import Item, fetch

MODEL_PREFIX = "model."  # of the network's weights in a checkpoint

AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def make_model(config: TrainConfig, bundle: DataBundle) -> nn.Module:
    """The network that a config names, for the inputs and classes of a data set, before training.

    Sets the global random generators: the seed alone determines the weights, whatever the method.
    """
    seed_generators("weights", config.seed)
    model = native_model(config.model, bundle)
    if config.method == "band-limited":
        band_limit(model, config.band_limit)
    elif config.method == "specnet":
        convert(model, config.spec_net)
    elif config.method in ("frequency", "small"):
        convert(model, config.frequency, torch.zeros(2, *bundle.input_shape))
    if config.method == "small":
        model = small_network(model)
    return model.double() if config.precision == "64" else model


def native_model(name: str, bundle: DataBundle) -> nn.Module:
    """The network of a name, for the inputs and classes of a data set, not converted."""
    channels, *input_size = bundle.input_shape
    return create_model(
        name,
        num_classes=bundle.num_classes,
        in_channels=channels,
        input_size=tuple(input_size),
    )


def band_limit(model: nn.Module, config: BandLimit) -> None:
    """Make every convolution of more than one point band-limited, or give it another band.

    Not only those that it speeds up, as `passband.convert` does by itself: as in the paper, and so
    that the same layers are band-limited at every compression.
    """
    convert(model, config, filter_fn=has_several_points)


def has_several_points(name: str, module: nn.Module) -> bool:
    """Whether a convolution looks at more than one point of its map."""
    return math.prod(getattr(module, "kernel_size", ())) > 1


def load_run(
    run: str | Path, checkpoint: str | None = None
) -> tuple[nn.Module, TrainConfig, DataBundle]:
    """The trained network of a run, in evaluation mode on the CPU, its config, and its data.

    Args:
        run: The run's folder.
        checkpoint: "last" or "best"; None takes the one that the run's result reports.

    Raises:
        FileNotFoundError: There is no run, or it has no such checkpoint yet.
        ValueError: `checkpoint` is something else, or a file is damaged.
    """
    model, config, parts = _load(RunFolder(Path(run)), checkpoint)
    return model, config, parts.bundle


def evaluate(
    run: str | Path,
    compression: float | None = None,
    energy: float | None = None,
    band: int | tuple[int, ...] | None = None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Measure a run's network on its test data, at the band it was trained with or another.

    A network trained without bands is converted first.

    Args:
        run: The run's folder.
        compression: Fraction of the half-spectrum to discard, 0 <= c < 1.
        energy: Fraction of the spectral energy to keep, 0 < e <= 1.
        band: Half-spectrum coefficients to keep per axis.
        checkpoint: "last" or "best"; None takes the one that the run's result reports.

    Returns:
        compression, energy, band (as used), realised_compression (mean over the band-limited
        layers; None without), test_loss, test_accuracy (a fraction), test_samples.

    Raises:
        ValueError: More than one of them is given, a value is outside its range, or the network has
            no convolution that can be band-limited.
        FileNotFoundError: There is no run, or it has no checkpoint yet.
    """
    wanted = BandLimit(compression=compression, energy=energy, band=band)
    return next(evaluate_bands(run, [wanted], checkpoint))


def evaluate_bands(
    run: str | Path,
    bands: Sequence[BandLimit],
    checkpoint: str | None = None,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """What `evaluate` returns for each of several bands; a config without one stands for the run's.

    The run is loaded once.
    """
    model, config, parts = _load(RunFolder(Path(run)), checkpoint)
    for wanted in bands:
        trained = wanted == BandLimit()
        limit = config.band_limit if trained else wanted
        if not trained:
            band_limit(model, BandLimit(**(vars(wanted) | {"algorithm": config.algorithm})))
            if not any(isinstance(module, BandLimitedConv) for module in model.modules()):
                raise ValueError(
                    f"{run}: its network ({config.model}, method {config.method!r}) has no "
                    "convolution that can be band-limited; evaluate it without compression, energy "
                    "or band"
                )
        layers = describe_layers(model, example_batch(parts.test, config))
        yield {
            "compression": limit.compression,
            "energy": limit.energy,
            "band": limit.band,
            "realised_compression": mean_compression(layers),
            **measure_accuracy(model, parts.test, config, progress=progress),
        }


def measure_accuracy(
    model: nn.Module, dataset: Dataset[Item], config: TrainConfig, progress: bool = False
) -> dict[str, Any]:
    """Loss and accuracy on test data, with the config's batches and precision.

    Of a segmentation, where every point has a class, they are means over the points, and there is
    the Dice coefficient besides.
    """
    device = best_device()
    model = model.to(device).eval()
    loader: DataLoader[Any] = DataLoader(
        dataset, config.batch_size, num_workers=config.num_workers, generator=torch.Generator()
    )
    if progress:
        tqdm = require("tqdm", extra="train").tqdm
        # disable=None: only on a terminal
        loader = tqdm(loader, "testing", leave=False, dynamic_ncols=True, disable=None)
    loss = correct = torch.zeros((), device=device)
    points, dice = 0, Dice()
    with torch.inference_mode(), autocast(device, config.precision):
        for inputs, labels in loader:
            scores = model(cast(inputs, config.precision).to(device))
            labels = labels.to(device)
            loss = loss + F.cross_entropy(scores, labels, reduction="sum")
            found = scores.argmax(1)
            correct = correct + (found == labels).sum()
            points += labels.numel()
            if labels.dim() > 1:  # classes of points
                dice.add(found, labels, scores.shape[1])
    model.cpu()
    return {
        "test_loss": loss.item() / points,
        "test_accuracy": correct.item() / points,
        "test_samples": size(dataset),
        **({} if dice.value is None else {"test_dice": dice.value}),
    }


def describe_layers(model: nn.Module, inputs: Tensor) -> list[dict[str, Any]]:
    """What each convolution and linear layer does with these inputs.

    Returns:
        One dict per layer: layer, macs and native_macs (of the forward pass, for all inputs),
        realised_compression and algorithm (None without a band), saved_bytes.
    """
    uses = observe(model, inputs).layers
    return [
        {
            "layer": name,
            "macs": use.macs,
            "native_macs": use.native_macs,
            "realised_compression": use.realised_compression,
            "algorithm": use.algorithm,
            "saved_bytes": use.saved_bytes,
        }
        for name, use in uses.items()
    ]


def mean_compression(layers: list[dict[str, Any]]) -> float | None:
    """Mean of what the band-limited layers discard; None if there is none."""
    cuts = [layer["realised_compression"] for layer in layers]
    known = [cut for cut in cuts if cut is not None]
    return statistics.fmean(known) if known else None


def step_saved_bytes(model: nn.Module, inputs: Tensor, config: TrainConfig) -> int:
    """Bytes that the forward pass of a training step keeps for the backward pass."""
    training = copy.deepcopy(model).train()  # batch statistics and generators change in it
    with torch.random.fork_rng(devices=[]), autocast(inputs.device, config.precision):
        return saved_bytes(lambda: training(inputs), training)


def example_batch(dataset: Dataset[Item], config: TrainConfig) -> Tensor:
    """The first inputs of a data set, as many as a training step takes if there are."""
    count = min(config.batch_size, size(dataset))
    inputs = torch.stack([input for input, _ in fetch(dataset, list(range(count)))])
    return cast(inputs, config.precision)


def cast(inputs: Tensor, precision: str) -> Tensor:
    """Inputs in the type that a precision computes in."""
    return inputs.double() if precision == "64" else inputs


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision where the config asks for it."""
    if precision in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[precision])
    return nullcontext()


def best_device() -> torch.device:
    """The accelerator that is here, otherwise the CPU: what Lightning chooses too."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and torch.accelerator.is_available():
        return accelerator
    return torch.device("cpu")


def _load(folder: RunFolder, checkpoint: str | None) -> tuple[nn.Module, TrainConfig, Parts]:
    config = folder.read_config()
    if checkpoint is None:
        checkpoint = (folder.read_result() or {}).get("checkpoint", "last")
    if checkpoint not in ("last", "best"):
        raise ValueError(f"checkpoint is {checkpoint!r}; allowed are 'last' and 'best'")
    path = folder.last if checkpoint == "last" else folder.best
    weights = network_weights(read_checkpoint(path))
    parts = load_parts(config)
    model = make_model(config, parts.bundle)
    model.load_state_dict(weights)
    return model.eval(), config, parts


def network_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The network's weights in the contents of a checkpoint."""
    state = checkpoint["state_dict"]
    return {name.removeprefix(MODEL_PREFIX): tensor for name, tensor in state.items()}
