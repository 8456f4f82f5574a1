"""A model whose convolutions pass spectra on to each other."""

from typing import Any

from torch import fx, nn

from passband.config import SpecNet


class SpectralNetwork(nn.Module):
    """A model that `passband.convert` has made a SpecNet of: its layers, in another graph.

    The model keeps its class beside this one, its layers and their names; the layers that became
    part of a convolution are passed by.
    """

    spectral_graph: fx.Graph
    spectral_config: SpecNet

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model computes, by the graph of spectra."""
        places = [n for n in self.spectral_graph.nodes if n.op == "placeholder"]
        given = [
            *args,
            *(kwargs.pop(str(n.target)) for n in places[len(args) :] if n.target in kwargs),
        ]
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(kwargs)}")
        return fx.Interpreter(self, graph=self.spectral_graph).run(*given)


def network_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A model's class, with the forward method of `SpectralNetwork`."""
    return type(f"Spectral{kind.__name__}", (SpectralNetwork, kind), {"made_from": kind})
