"""How far the rounding of stored spectra takes a SpecNet's gradient.

    python benchmarks/specnet_rounding.py RUNS [RUNS ...]

A SpecNet at beta 0 with 32-bit values has its twin's gradient; with fewer bits the maps that flow
on are rounded, layer after layer. For VGG-16 and DenseNet with batch norm, at the first weights and
at those of the finished run with 8-bit values at 0 in RUNS, the gradients of some batches of the
training data are compared with those of 32-bit values: error, |g - g0| / |g0| over all parameters
together, and cosine of the angle, the means over the batches. Beside them stands what the choice of
the batch does: the gradient of the next batch instead, with 32-bit values. Dropout is left out.
Data from PASSBAND_DATA.
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from machine import RESULTS, provenance, write_rows
from specnet import spec_way, trained
from torch import Tensor, nn

import passband as pb
from passband.data import load_dataset
from passband.networks import create_model
from passband.studies.specnet import DATA
from passband.train import load_run

NETWORKS = ("specvgg16", "specdensenet")
BATCH, BATCHES = 32, 8  # batches as the trainings have them


def spec_net(network: str, storage: str) -> pb.SpecNet:
    """The mode that is recommended for deep networks, at threshold 0."""
    pool = "average" if network == "specdensenet" else "max"
    return pb.SpecNet(0.0, activation="relu", pool=pool, batch_norm="keep", storage=storage)


def gradients(
    network: str, storage: str, weights: dict[str, Tensor], batches: list[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Of each batch that of all parameters."""
    found = []
    for x, labels in batches:
        model = create_model(
            f"{network}-bn", num_classes=10, in_channels=3, input_size=tuple(x.shape[2:])
        )
        model.load_state_dict(weights)
        pb.convert(model, spec_net(network, storage), x[:2])
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        F.cross_entropy(model(x), labels).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return found


def compared(network: str, weights: dict[str, Tensor], name: str) -> list[dict[str, Any]]:
    """The rows of one network at some weights."""
    data = load_dataset(DATA[network]).train
    batches = []
    for start in range(0, (BATCHES + 1) * BATCH, BATCH):
        items = [data[i] for i in range(start, start + BATCH)]
        batches.append((torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])))
    exact = gradients(network, "float32", weights, batches)
    others = {
        storage: gradients(network, storage, weights, batches[:-1])
        for storage in ("bfloat16", "int8")
    }
    others["float32, the next batch"] = exact[1:]
    rows = []
    for storage, found in others.items():
        pairs = [(a.double(), b.double()) for a, b in zip(found, exact[:-1], strict=True)]
        row = {"network": network, "weights": name, "values": storage}
        row["error"] = fmean(((a - b).norm() / b.norm()).item() for a, b in pairs)
        row["cosine"] = fmean(F.cosine_similarity(a, b, 0).item() for a, b in pairs)
        rows.append(row | provenance())
        print(rows[-1])
    return rows


def main() -> None:
    """Measure, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    known = trained(parser.parse_args().runs)
    rows = []
    for network in NETWORKS:
        torch.manual_seed(0)
        name = f"{network}-bn"
        first = create_model(name, num_classes=10, in_channels=3, input_size=(32, 32))
        rows += compared(network, first.state_dict(), "first")
        config = spec_way(spec_net(network, "int8"))
        run = next((run for key, run in known.items() if key == f"{name}: {config.name}, 0"), None)
        if run is not None:
            model = load_run(run)[0]
            pb.revert(model)
            rows += compared(network, model.state_dict(), "trained")
    write_rows(RESULTS / "rounding-specnet.csv", rows)


if __name__ == "__main__":
    main()
