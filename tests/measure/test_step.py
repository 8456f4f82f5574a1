"""Whole training steps measured."""

import copy

import torch
from torch import nn

import passband as pb
from passband.measure.memory import left_bytes
from passband.measure.profile import profile
from passband.measure.step import profile_step


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    )  # fmt: skip
    config = pb.BandLimit(compression=0.5, memory="exact")
    pb.convert(model, config, filter_fn=lambda *_: True)
    return model


def test_blocks_and_the_whole() -> None:
    images = 64  # beside whose maps the workspace is small
    model, x = make_model(), torch.randn(images, 3, 16, 16)
    before = copy.deepcopy(model.state_dict())
    *blocks, step = profile_step(model, x, repeats=1).rows
    assert [(row["part"], row["kind"]) for row in blocks] == [
        ("0", "conv-bn-relu"),
        ("3", "conv-bn-relu"),
    ]
    map_bytes = 4 * images * 16 * 16 * 16
    # of the first block: the input, the output of the convolution and that of the ReLU
    assert blocks[0]["native_saved_bytes"] == x.nbytes + 2 * map_bytes + 2 * 4 * 16
    assert blocks[0]["saved_bytes"] < x.nbytes
    assert step["native_saved_bytes"] == x.nbytes + 4 * map_bytes + 4 * 4 * 16
    assert step["saved_bytes"] == sum(row["saved_bytes"] for row in blocks)
    assert 0 < step["peak_bytes"] < step["native_peak_bytes"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])  # the statistics too


def test_profile_says_it_in_a_note() -> None:
    model, x = make_model(), torch.randn(2, 3, 16, 16)
    notes = profile(model, x, repeats=1).notes
    assert sum(note.startswith("whole training step") for note in notes) == 1
    assert not any("whole" in note for note in profile(model, x, training=False, repeats=1).notes)


def test_left_bytes_know_of_checkpoints() -> None:
    """One map that torch.utils.checkpoint keeps, and the output; nothing of what lies between."""
    layer = nn.Sequential(nn.Tanh(), nn.Sigmoid(), nn.Tanh())
    x = torch.randn(100, 10, requires_grad=True)

    def forward() -> torch.Tensor:
        output = torch.utils.checkpoint.checkpoint(
            layer, x * 2, use_reentrant=False, preserve_rng_state=False
        )
        assert isinstance(output, torch.Tensor)
        return output

    assert 8000 <= left_bytes(forward) < 8500
