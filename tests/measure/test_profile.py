import torch
from torch import nn

import passband as pb
from passband.measure.profile import profile


def make_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        pb.BandLimitedConv2d(8, 8, 3, padding=1, compression=0.85, algorithm="matmul"),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def test_layers_against_their_originals() -> None:
    table = profile(make_model(), torch.randn(2, 3, 19, 17), repeats=1)
    native, band, linear = table.rows
    assert [row["layer"] for row in table.rows] == ["0", "2", "6"]
    assert (native["macs"], native["saved_bytes"]) == (2 * 3 * 8 * 9 * 19 * 17, 4 * 2 * 3 * 19 * 17)
    for row in (native, linear):
        assert row["algorithm"] is None
        assert row["seconds"] == row["native_seconds"]
    assert band["type"] == "BandLimitedConv2d"
    assert band["algorithm"] == "matmul"
    assert 0.7 < band["realised_compression"] < 0.95
    assert band["macs"] < band["native_macs"]
    assert band["saved_bytes"] < band["native_saved_bytes"] == 4 * 2 * 8 * 19 * 17
    assert table.totals is not None
    for name in ("macs", "seconds", "native_saved_bytes"):
        assert table.totals[name] == sum(row[name] for row in table.rows)
    assert max(len(line) for line in str(table).split("\n")) <= 100


def test_evaluation_keeps_nothing() -> None:
    table = profile(make_model(), torch.randn(2, 3, 9, 9), training=False, repeats=1)
    assert all(row["saved_bytes"] is None for row in table.rows)
    assert table.totals is not None
    assert table.totals["saved_bytes"] is None
    assert "backward" not in str(table)


def test_the_model_is_left_as_it_was() -> None:
    model = make_model()
    calls: list[int] = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    model[2].eval()
    generator = torch.get_rng_state()
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator())
    profile(model, x, repeats=2)
    assert len(calls) == 1  # the model's own pass; the timed runs leave hooks alone
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in model] == [True, True, False, True, True, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_one_layer_is_a_model() -> None:
    table = profile(nn.Linear(3, 2), torch.randn(4, 3), repeats=1)
    assert table.rows[0]["layer"] == "(model)"
