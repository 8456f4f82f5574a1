"""The table of SpecNets for the README: what each network can do without harm, and its rivals."""

from specnet_runs import budget, over_seeds
from tables import Results, Row, cell, markdown, read

NAMES = {
    "specvgg16": "VGG-16",
    "specdensenet": "DenseNet",
    "specalexnet": "AlexNet",
    "speclenet": "LeNet",
}
HARMLESS = 0.01  # of the twin's accuracy, by the targets
RIVALS = {
    "twin, channels last": "twin, channels last",
    "twin, batch norm, channels last": "twin, batch norm, channels last",
    "twin, checkpointed": "checkpointed twin",
    "exact-memory band-limited": "exact-memory band-limited, c = 0.5",
}
PAPER = ("spectral-tanh, pool spectral", 1.0)
TITLES = [
    "network",
    "",
    "beta",
    "accuracy (%)",
    "its twin's",
    "kept (%)",
    "mean",
    "peak",
    "RSS",
    "time",
]
Key = tuple[str, float | None]


def specnet(results: Results) -> str:
    """Of each network the SpecNets of the lowest peak within a point, the paper's, and rivals.

    With and without batch norm, which have twins of their own.
    """
    accuracies = results.folder / "accuracy-specnet.csv"
    body = []
    for network, title in NAMES.items():
        measured = {_key(row): row for row in results.rows(f"memory-{network}")}
        reached = _reached(read(accuracies), network)
        harmless = [
            key
            for key in measured.keys() & reached.keys()
            if key[1] is not None and round(float(reached[key]["lost"]), 6) <= HARMLESS
        ]
        wanted: dict[Key, str] = {}
        for has_norm in (True, False):
            own = [key for key in harmless if ("norm" in key[0]) == has_norm]
            if own:
                best = min(own, key=lambda key: float(measured[key]["peak"]))
                wanted[best] = best[0]
        wanted |= {PAPER: PAPER[0], **{(name, None): shown for name, shown in RIVALS.items()}}
        for key, shown in wanted.items():
            if key in measured:
                body.append([title, shown, *_cells(measured[key], reached.get(key))])
    kinds = [f"memory-{network}" for network in NAMES]
    where = f"Accuracies: [{accuracies.name}]({results.link(accuracies)}).\n"
    return markdown(TITLES, body) + results.caption(*kinds) + where


def _key(row: Row) -> Key:
    return row["method"], float(row["beta"]) if row["beta"] else None


def _reached(rows: list[Row], network: str) -> dict[Key, Row]:
    """A network's longest trainings on the most images; means over seeds."""
    own = over_seeds([row for row in rows if row["network"] == network])
    longest = max((budget(row) for row in own), default=())
    return {_key(row): row for row in own if budget(row) == longest}


def _cells(memory: Row, accuracy: Row | None) -> list[str]:
    reached = ["-", "-"]
    if accuracy is not None:
        own = float(accuracy["accuracy"])
        reached = [f"{100 * own:.1f}", f"{100 * (own + float(accuracy['lost'])):.1f}"]
    sizes = [cell(memory.get(name, ""), 100) for name in ("kept", "mean", "peak", "resident")]
    return [cell(memory["beta"]), *reached, *sizes, cell(memory["time_returned"])]
