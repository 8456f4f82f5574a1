"""Segmentation: Dice of a dense UNet, of one with few DCT coefficients, and of its chain.

On each set of images the network is trained as it is; with frequency regularization in the spatial
domain, as in the 2023 paper, where it computes as ever from very few numbers; and in the channel
domain, with a budget of multiplications, where it becomes a small network. All with the same seed,
for as many epochs. The masks that they find are drawn beside the true ones.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from passband.chain import to_chain
from passband.chain.compare import model_macs
from passband.convert import FrequencyNetwork
from passband.files import save
from passband.measure.table import Column, Table
from passband.report import Picture, Section
from passband.report.figures import new_figure
from passband.studies.options import numbers
from passband.studies.registry import StudyResult
from passband.studies.results import write_results
from passband.studies.trainings import Training, train_all
from passband.train import TrainConfig, load_run
from passband.train.parts import load_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    Column("data"),
    Column("contender"),
    Column("keep"),
    Column("test_dice", "fraction", "Dice"),
    Column("test_accuracy", "fraction", "accuracy"),
    Column("macs", "count", "MACs"),
    Column("macs_ratio", "number", "fewer"),
    Column("file_bytes", "bytes", "file"),
)

_SHRINKING = 0.6  # part of the training


def run(
    out: Path,
    *,
    progress: bool,
    data: str = "membrane,cars",
    network: str = "unet16",
    keeps: str = "0.001,0.02",
    chain_keep: float = 0.02,
    image_size: int = 128,
    epochs: int = 40,
    batch_size: int = 4,
    lr: float = 0.003,
    seed: int = 0,
) -> StudyResult:
    """Train all, or take up those that are done; see the module.

    Args:
        out: Folder for everything.
        progress: Show a progress bar.
        data: Folders of images and masks under ``segmentation``, between commas.
        network: The network.
        keeps: Fractions of the coefficients kept in the spatial domain, between commas.
        chain_keep: Fraction of the multiplications kept in the channel domain.
        image_size: Height and width that images are brought to.
        epochs: Passes over the data, the same for all.
        batch_size: Images per step.
        lr: Learning rate of Adam at the start; it falls along a cosine.
        seed: Of all trainings.

    Raises:
        FileNotFoundError: A set of images is not there.
        ValueError: An option has a value it cannot have.
        ImportError: A package is missing; the message names the extra.
    """
    fractions = numbers("keeps", keeps)
    rows: list[dict[str, Any]] = []
    pictures = []
    runs: dict[str, Training] = {}
    for name in str(data).split(","):
        base = TrainConfig(
            data=f"segmentation:{name}", model=network, image_size=image_size, epochs=epochs,
            batch_size=batch_size, lr=lr, optimizer="adam", weight_decay=0.0, scheduler="cosine",
            seed=seed,
        )  # fmt: skip
        shrinking: dict[str, Any] = {"method": "frequency", "shrink_share": _SHRINKING}
        configs = {
            "dense": base,
            **{
                # A part of the last layer would give all classes the same score, but for biases.
                f"regularized {keep:g}": replace(
                    base, keep=keep, keep_last=1.0, domain="spatial", **shrinking
                )
                for keep in fractions
            },
            f"chain {chain_keep:g}": replace(base, keep=chain_keep, per_layer="macs", **shrinking),
        }
        named = {f"{network} {name} {kind}": config for kind, config in configs.items()}
        trained = train_all(named, out / "runs", progress=progress)
        runs |= trained
        found = {}
        for kind, training in zip(configs, trained.values(), strict=True):
            row, found[kind] = _judged(training)
            rows.append({"data": name, "contender": kind.partition(" ")[0], **row})
            rows[-1]["macs_ratio"] = round(rows[-len(found)]["macs"] / row["macs"], 1)
        image, truth = load_parts(base).test[0]
        caption = f"{name}: the first test image, its true mask, and what each network finds."
        pictures.append(Picture(f"masks-{name}", masks_figure(image, truth, found), caption))
    note = f"{epochs} epochs of {image_size} x {image_size} points; file: kept numbers in 2 bytes."
    table = Table(COLUMNS, rows, None, [note])
    return write_results(
        "segmentation",
        out,
        table,
        title="Segmentation with few coefficients",
        summary=[f"Dice of {network}, dense, with few DCT coefficients, and as a chain. {note}"],
        sections=[Section("Results", table=table, pictures=pictures)],
        options={
            "data": data,
            "network": network,
            "keeps": keeps,
            "chain_keep": chain_keep,
            "image_size": image_size,
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
        },
        runs=runs,
    )


def _judged(training: Training) -> tuple[dict[str, Any], Tensor]:
    """The row of a network, and the mask that it finds on the first test image."""
    model, config, _ = load_run(training.folder)
    image = load_parts(config).test[0][0][None]
    chain = to_chain(model, image) if isinstance(model, FrequencyNetwork) else model
    with torch.no_grad():
        mask = chain(image).argmax(1)[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.safetensors")
        save(model, file, half=True)
        file_bytes = file.stat().st_size
    row = {
        "keep": f"{1.0 if config.keep is None else config.keep:g}",
        "test_dice": training.result["test_dice"],
        "test_accuracy": training.result["test_accuracy"],
        "macs": model_macs(chain, image),
        "file_bytes": file_bytes,
    }
    return row, mask


def masks_figure(image: Tensor, truth: Tensor, found: Mapping[str, Tensor]) -> "Figure":
    """An image, its true mask, and those that networks find, side by side.

    Args:
        image: (C, H, W) with one or three channels.
        truth: Classes (H, W).
        found: Classes (H, W) by the networks' names.
    """
    shown: Sequence[tuple[str, Tensor]] = (("truth", truth), *found.items())
    figure = new_figure(2.0 * (1 + len(shown)), 2.3, pictures=True)
    panels = figure.subplots(1, 1 + len(shown))
    grey = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-6)
    panels[0].imshow(grey.mean(0).numpy(), cmap="gray")
    panels[0].set_title("image", fontsize=10)
    for axes, (name, mask) in zip(panels[1:], shown, strict=True):
        axes.imshow(mask.numpy(), cmap="gray", vmin=0, vmax=max(1, int(truth.max())))
        axes.set_title(name, fontsize=10)
    for axes in panels:
        axes.set_axis_off()
    return figure
