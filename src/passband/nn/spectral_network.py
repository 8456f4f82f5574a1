"""A model whose convolutions pass spectra on to each other."""

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from passband.config import SpecNet
from passband.imported import from_name, to_name


class SpectralNetwork(nn.Module):
    """A model that `passband.convert` has made a SpecNet of: its layers, in another graph.

    The model keeps its class beside this one, its layers and their names; the layers that became
    part of a convolution are passed by.
    """

    made_from: type[nn.Module]
    """The class that the model had."""
    spectral_config: SpecNet
    """What it was converted by."""
    _passband_forward: tuple[str, dict[str, Any]]
    """The source of its forward method, and the names in it."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """For pickling and copying: the class is made anew, or found again."""
        own: Any = getattr(self, "__getstate__", None)  # of every object from Python 3.11 on
        state = self.__dict__ if own is None else own()
        return _empty, (self.made_from, *self._passband_forward), state


def network_class(kind: type[nn.Module], graph: fx.Graph) -> type[nn.Module]:
    """A model's class, of which the forward method is that of a graph, with the same arguments."""
    code = graph.python_code("self")
    return _class(kind, code.src, {name: to_name(value) for name, value in code.globals.items()})


_CLASSES: dict[Any, type[nn.Module]] = {}


def _class(kind: type[nn.Module], source: str, names: Mapping[str, Any]) -> type[nn.Module]:
    """The class of a forward method, the same one for the same method."""
    key = (kind, source, repr(names))  # functions that have no name say where they lie
    if key not in _CLASSES:
        scope = {name: from_name(value) for name, value in names.items()}
        exec(source, scope)
        contents = {
            "forward": scope["forward"],
            "made_from": kind,
            "_passband_forward": (source, dict(names)),
            "__doc__": SpectralNetwork.__doc__,
            "__module__": __name__,
        }
        _CLASSES[key] = type(f"Spectral{kind.__name__}", (SpectralNetwork, kind), contents)
    return _CLASSES[key]


def _empty(kind: type[nn.Module], source: str, names: Mapping[str, Any]) -> nn.Module:
    """An empty network, which its state will fill."""
    made = _class(kind, source, names)
    network: nn.Module = made.__new__(made)
    return network
