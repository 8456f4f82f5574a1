"""A new method writes a config and a handler, and edits nothing of this package."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from passband import config as configs
from passband.config import Config, config_from_dict
from passband.convert import LayerHandler, Reason, convert, register_handler, revert
from passband.convert import handler as handlers
from passband.measure.layers import LayerUse


class ScaledConv(nn.Conv1d):
    factor: float

    def forward(self, input: Tensor) -> Tensor:
        return self.factor * super().forward(input)


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> type[Config]:
    monkeypatch.setattr(configs, "_METHODS", dict(configs._METHODS))
    monkeypatch.setattr(handlers, "_HANDLERS", dict(handlers._HANDLERS))

    @dataclass(frozen=True)
    class Scale(Config):
        method = "scale"
        factor: float = 1.0

    @register_handler(Scale)
    class ScaleHandler(LayerHandler[Scale]):
        layer_types = (ScaledConv,)

        def refusal(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
            return None if isinstance(layer, nn.Conv1d) else Reason("2d", "only series")

        def objection(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
            return None

        def convert(self, layer: nn.Module) -> None:
            layer.__class__ = ScaledConv
            layer.factor = self.config.factor

        @staticmethod
        def revert(layer: nn.Module) -> None:
            del layer.factor
            layer.__class__ = nn.Conv1d

        @staticmethod
        def config_of(layer: nn.Module) -> Config:
            assert isinstance(layer, ScaledConv)
            return Scale(layer.factor)

    return Scale


def test_a_method_of_ones_own(scale: type[Config]) -> None:
    config = config_from_dict({"method": "scale", "version": 1, "factor": 3.0})
    assert type(config) is scale
    model = nn.ModuleList([nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1)])
    x = torch.ones(1, 1, 4)
    native = model[0](x)
    report = convert(model, config)
    assert [layer.result for layer in report.layers] == ["converted", "left: 2d"]
    assert "Converted 1 of 2 convolutions by Scale(factor=3.0)." in str(report)
    assert torch.equal(model[0](x), 3 * native)
    revert(model)
    assert torch.equal(model[0](x), native)
