"""Tables of memory in training for the documents."""

from tables import Results, Row, cell, markdown

BATCH = "128"
NAMES = {
    "resnet18": "ResNet-18",
    "vgg16_bn": "VGG-16-BN",
    "densenet121": "DenseNet-121",
    "fcn": "FCN",
}

# Of each network: kept at c = 0.5 and 0.85, peak at c = 0.5, as fractions; time at c = 0.5.
TARGETS = {
    "resnet18": (0.37, 0.14, 0.45, 1.0),
    "vgg16_bn": (0.35, 0.12, 0.42, None),
    "densenet121": (0.30, 0.12, 0.40, None),
    "fcn": (0.37, 0.14, 0.45, None),
}


def memory(results: Results) -> str:
    """Kept bytes, peak and time of each way to train, network by network."""
    found = {
        (row["network"], row["contender"]): row
        for row in results.rows("memory")
        if row["batch"] == BATCH and row["network"] in NAMES
    }
    networks = [name for name in NAMES if any(network == name for network, _ in found)]
    contenders = dict.fromkeys(contender for _, contender in found)
    body = [
        [contender, *(_shown(found.get((name, contender))) for name in networks)]
        for contender in contenders
    ]
    body.append(["**targets**", *(_judged(found, name) for name in networks)])
    return markdown(["", *map(NAMES.__getitem__, networks)], body) + results.caption("memory")


def _shown(row: Row | None) -> str:
    if row is None:
        return "-"
    time = f", {cell(row['time'])}x" if row["time"] else ""
    return f"{cell(row['kept'], 100)} / {cell(row['peak'], 100)} %{time}"


def _judged(found: dict[tuple[str, str], Row], network: str) -> str:
    """Which of a network's targets were met."""
    cells = (
        ("exact c=0.5", "kept", "kept at c=0.5"),
        ("exact c=0.85", "kept", "at c=0.85"),
        ("exact c=0.5", "peak", "peak at c=0.5"),
        ("exact c=0.5", "time", "time at c=0.5"),
    )
    said = []
    for (contender, column, name), target in zip(cells, TARGETS[network], strict=True):
        row = found.get((network, contender))
        if target is None:
            continue
        goal = f"{target:g}x" if column == "time" else f"{100 * target:.0f} %"
        if row is None or not row[column]:
            verdict = "not measured"
        else:
            verdict = "**met**" if float(row[column]) <= target else "missed"
        said.append(f"{name} <= {goal}: {verdict}")
    return ", ".join(said)
