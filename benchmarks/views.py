"""The views of results that documents can ask for."""

from collections.abc import Callable
from pathlib import Path

from chain_views import accuracy, engines
from memory_views import memory
from specnet_views import specnet
from speed_views import (
    curve,
    freed_memory,
    growth,
    layers,
    networks,
    precision,
    short_layers,
    targets,
)
from tables import Results

# Each with the kind of result that it cannot do without.
VIEWS: dict[str, tuple[str, Callable[[Results], str]]] = {
    "targets": ("layers", targets),
    "freed memory": ("networks", freed_memory),
    "short layers": ("layers", short_layers),
    "layers": ("layers", layers),
    "curve": ("layers", curve),
    "networks": ("networks", networks),
    "growth": ("growth", growth),
    "engines": ("engines", engines),
    "chain accuracy": ("frequency-cifar10", accuracy),
    "memory": ("memory", memory),
    "precision": ("precision", precision),
    "specnet": ("memory-specvgg16", specnet),
}


def render_view(name: str, folder: Path, prefix: str) -> str:
    """A view for every machine that has the results for it."""
    kind, view = VIEWS[name]
    files = sorted(folder.glob(f"{kind}_*.csv"))
    if not files:
        return f"Not measured yet: `make bench` writes `{kind}_*.csv`.\n"
    origins = [file.stem.removeprefix(f"{kind}_") for file in files]
    return "\n".join(view(Results(folder, origin, prefix)) for origin in origins)
