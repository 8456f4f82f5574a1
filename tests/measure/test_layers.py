import torch
from torch import Tensor, nn

from passband import BandLimitedConv2d
from passband.measure.layers import observe


class Shared(nn.Module):
    """One convolution called twice, by keyword, on maps of two sizes; another that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BandLimitedConv2d(2, 2, 3, compression=0.5, algorithm="lowpass")
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        return self.conv(input=x).mean() + scale * self.conv(input=x[..., 2:]).mean()


def test_calls_of_a_shared_layer_add_up() -> None:
    model = Shared()
    use = observe(model, {"x": torch.zeros(1, 2, 9, 9), "scale": 2.0})
    assert list(use.layers) == ["conv"]
    layer = use.layers["conv"]
    assert [tuple(given.shape) for given in layer.inputs] == [(1, 2, 9, 9), (1, 2, 9, 7)]
    assert layer.native_macs == 2 * 2 * 9 * (7 * 7 + 7 * 5)
    assert layer.macs > layer.native_macs
    assert layer.algorithm == "lowpass"


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3).eval()
    )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    observe(model, torch.randn(1, 2, 9, 9, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, True, True, False]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_several_positional_arguments() -> None:
    use = observe(nn.Bilinear(2, 3, 4), (torch.ones(5, 2), torch.ones(5, 3)))
    assert use.layers == {}
    assert use.saved_bytes > 0
