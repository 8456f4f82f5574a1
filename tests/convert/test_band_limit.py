"""The knobs of a band-limited model: `set_compression` and `calibrate`."""

import pytest
import torch
from torch import Tensor, nn

from passband import BandLimit
from passband.convert import calibrate, convert, set_compression
from passband.spectrum.energy import band_from_energy
from tests.support import random


def make_model(**band: float) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(),
        nn.Conv2d(4, 4, (3, 5), padding=1, padding_mode="reflect"),
    )
    convert(model, BandLimit(**band), filter_fn=lambda *_: True)  # type: ignore[arg-type]
    return model


def smooth(batch: int, seed: int) -> Tensor:
    """Maps whose energy lies in low frequencies, as that of pictures does."""
    maps = random(batch, 3, 21, 18, dtype=torch.float32, seed=seed)
    return nn.functional.avg_pool2d(maps, 5, 1, 2)


class TestSetCompression:
    def test_every_layer_takes_it_and_forgets_its_band(self) -> None:
        model = make_model(energy=0.9)
        model[4].set_band(band=2)
        set_compression(model, 0.7)
        for layer in (model[0], model[4]):
            assert (layer.compression, layer.energy, layer.band) == (0.7, None, None)

    @pytest.mark.parametrize("compression", [1.0, -0.1])
    def test_a_value_out_of_range_changes_nothing(self, compression: float) -> None:
        model = make_model(compression=0.5)
        with pytest.raises(ValueError, match=r"compression is .*, allowed is 0 <= compression < 1"):
            set_compression(model, compression)
        assert model[0].compression == 0.5

    def test_a_model_without_layers_to_set(self) -> None:
        with pytest.raises(ValueError, match="model has no band-limited layer"):
            set_compression(nn.Conv2d(3, 3, 3), 0.5)


class TestCalibrate:
    def test_bands_hold_the_energy_of_all_batches_and_no_smaller_one_does(self) -> None:
        model = make_model(compression=0.9)
        batches = [smooth(2, 1), smooth(3, 2)]
        table = calibrate(model, batches, energy=0.9)
        model.eval()
        for layer, row in zip((model[0], model[4]), table.rows, strict=True):
            assert layer.compression is None
            assert row["energy"] >= 0.9
        # the first layer's inputs are the batches themselves
        both = nn.functional.pad(torch.cat(batches), (1, 1, 1, 1))
        assert model[0].band == band_from_energy(both, (23, 20), 0.9).band.kept
        # the second layer's are the first one's at full band, padded by reflection
        model[0].set_band()
        maps = nn.functional.pad(model[:4](torch.cat(batches)), (1, 1, 1, 1), "reflect")
        assert model[4].band == band_from_energy(maps, (23, 20), 0.9).band.kept

    def test_more_energy_takes_a_larger_band(self) -> None:
        kept = []
        for energy in (0.5, 0.95, 1.0):
            model = make_model()
            calibrate(model, [smooth(2, 1)], energy)
            kept.append(model[0].band)
        assert kept[0] < kept[1] < kept[2] == (12, 11)

    def test_default_is_95_percent(self) -> None:
        model, other = make_model(), make_model()
        calibrate(model, [smooth(2, 1)])
        calibrate(other, [smooth(2, 1)], 0.95)
        assert model[0].band == other[0].band

    def test_batches_with_labels_and_by_keyword(self) -> None:
        model, x = make_model(), smooth(2, 1)
        calibrate(model, [x])
        expected = model[0].band
        for batch in ((x, torch.tensor([0, 1])), [x], {"input": x}):
            set_compression(model, 0.0)
            calibrate(model, [batch])
            assert model[0].band == expected

    def test_the_model_is_left_as_it_was(self) -> None:
        model = make_model()
        model[3].eval()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        generator = torch.get_rng_state()
        calibrate(model, [smooth(2, 1)])
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())
        assert [m.training for m in model] == [True, True, True, False, True]
        assert not any(m._forward_pre_hooks for m in model.modules())

    def test_a_layer_that_does_not_run_keeps_its_band(self) -> None:
        model = make_model(compression=0.5)
        model[0].register_module("idle", make_model(compression=0.25)[0])
        calibrate(model, [smooth(2, 1)])
        assert model[0].idle.compression == 0.25
        assert model[0].compression is None

    def test_an_error_leaves_every_band_as_it_was(self) -> None:
        model = make_model(energy=0.5)
        model[4].set_band(band=2)
        batches = [smooth(2, 1), smooth(2, 1)[..., 2:]]
        with pytest.raises(ValueError, match=r"layer 0 is given maps of several sizes.*\(23, 20\)"):
            calibrate(model, batches)
        assert (model[0].energy, model[4].band) == (0.5, 2)
        assert not model[0]._forward_pre_hooks

    def test_maps_of_zeros_and_of_nan_have_the_band_they_must(self) -> None:
        model = make_model()
        table = calibrate(model, [torch.zeros(1, 3, 9, 9)], 0.9)
        assert (model[0].band, table.rows[0]["energy"]) == ((1, 1), 1.0)
        calibrate(model, [torch.full((1, 3, 9, 9), torch.nan)], 0.9)
        assert model[0].band == (6, 6)

    @pytest.mark.parametrize("energy", [0.0, 1.5])
    def test_an_energy_out_of_range(self, energy: float) -> None:
        with pytest.raises(ValueError, match=r"energy is .*, allowed is 0 < energy <= 1"):
            calibrate(make_model(), [smooth(1, 1)], energy)

    def test_no_batches(self) -> None:
        with pytest.raises(ValueError, match="batches is empty"):
            calibrate(make_model(), [])

    def test_no_layers(self) -> None:
        with pytest.raises(ValueError, match="model has no band-limited layer"):
            calibrate(nn.Conv2d(3, 3, 3), [smooth(1, 1)])
