"""A model whose convolutions pass spectra on to each other."""

from typing import Any

from torch import fx, nn

from passband.config import SpecNet


class SpectralNetwork(nn.Module):
    """A model that `passband.convert` has made a SpecNet of: its layers, in another graph.

    The model keeps its class beside this one, its layers and their names; the layers that became
    part of a convolution are passed by.
    """

    made_from: type[nn.Module]
    """The class that the model had."""
    spectral_config: SpecNet
    """What it was converted by."""


def network_class(kind: type[nn.Module], graph: fx.Graph) -> type[nn.Module]:
    """A model's class, of which the forward method is that of a graph, with the same arguments."""
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    exec(code.src, names)
    contents = {
        "forward": names["forward"],
        "made_from": kind,
        "__doc__": SpectralNetwork.__doc__,
        "__module__": __name__,
    }
    return type(f"Spectral{kind.__name__}", (SpectralNetwork, kind), contents)
