"""The block as a module behaves as torch's modules do, in every mode they have."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import passband as pb
from passband.nn.conv_bn_act import ConvBlock
from passband.nn.probes import probe
from tests.support import random, relative_error

# Sums over the batch in another order; float32.
TOLERANCE = 1e-5


def make_block(**options: Any) -> ConvBlock:
    torch.manual_seed(0)
    conv = pb.BandLimitedConv2d(4, 6, 3, padding=1, bias=False, compression=0.5)
    return ConvBlock(conv, nn.BatchNorm2d(6, **options), nn.ReLU())


def one_by_one(block: Any, x: Tensor) -> Tensor:
    result: Tensor = block.activation(block.norm(block.conv(x)))
    return result


def is_fused(output: Tensor) -> bool:
    return "ConvBlock" in type(output.grad_fn).__name__


def maps(**options: Any) -> Tensor:
    return random(5, 4, 9, 7, dtype=torch.float32, **options)


def assert_same_steps(
    block: ConvBlock, steps: int = 2, change: Callable[[ConvBlock], object] | None = None
) -> None:
    """Outputs, gradients and buffers of a few calls equal those of the single modules."""
    other = copy.deepcopy(block)
    for model in (block, other):
        if change is not None:
            change(model)
    for step in range(steps):
        x, y = maps(seed=step).requires_grad_(), maps(seed=step).requires_grad_()
        found, expected = block(x), one_by_one(other, y)
        assert is_fused(found)
        assert torch.equal(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        assert relative_error(x.grad, y.grad) <= TOLERANCE
    assert_same_state(block, other)


def assert_same_state(block: nn.Module, other: nn.Module) -> None:
    for (name, ours), theirs in zip(block.named_parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            assert relative_error(ours.grad, theirs.grad) <= TOLERANCE, name
    for ours, theirs in zip(block.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)


class TestBatchNorm:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"momentum": None},
            {"momentum": 0.3, "eps": 0.1},
            {"affine": False},
            {"track_running_stats": False},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("training", [True, False])
    def test_statistics(self, options: dict[str, Any], training: bool) -> None:
        assert_same_steps(make_block(**options).train(training))

    def test_evaluation_between_training_steps(self) -> None:
        block = make_block()
        other = copy.deepcopy(block)
        for mode in (True, False, True):
            for model, run in ((block, block), (other, lambda x: one_by_one(other, x))):
                model.train(mode)
                run(maps()).sum().backward()
                with torch.no_grad():
                    run(maps(seed=4))
        assert_same_state(block, other)

    def test_frozen_statistics_and_layers(self) -> None:
        def freeze_norm(block: Any) -> None:
            block.norm.eval().requires_grad_(False)

        def freeze_conv(block: Any) -> None:
            block.conv.requires_grad_(False)

        assert_same_steps(make_block(), change=freeze_norm)
        assert_same_steps(make_block(), change=freeze_conv)

    def test_one_value_per_channel_is_torchs_error(self) -> None:
        block = ConvBlock(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3))
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            block(torch.ones(1, 2, 2, 2))

    def test_synchronised_in_one_process(self) -> None:
        torch.manual_seed(0)
        conv = pb.BandLimitedConv2d(4, 6, 3, padding=1, bias=False, compression=0.5)
        block = ConvBlock(conv, nn.SyncBatchNorm(6), nn.ReLU())
        plain = ConvBlock(copy.deepcopy(conv), nn.BatchNorm2d(6), nn.ReLU())
        found = block(maps())  # on a CPU torch's own forward refuses
        assert is_fused(found) and torch.equal(found, plain(maps()))


class TestSinglyWhere:
    """Modules run one after the other where a block would not be right."""

    def test_nothing_is_differentiated(self) -> None:
        block = make_block()
        with torch.no_grad():
            assert torch.equal(block(maps()), one_by_one(make_block(), maps()))
        assert not is_fused(block.requires_grad_(False)(maps()))

    @pytest.mark.parametrize("part", ["conv", "norm", "activation"])
    def test_a_module_has_hooks(self, part: str) -> None:
        block = make_block()
        seen: list[Tensor] = []
        getattr(block, part).register_forward_hook(lambda m, x, y: seen.append(y))
        output = block(maps())
        assert len(seen) == 1 and not is_fused(output)
        assert torch.equal(output, make_block()(maps()))

    def test_but_not_for_probes(self) -> None:
        block, seen = make_block(), []
        block.conv.register_forward_pre_hook(probe(lambda m, x: seen.append(x[0].shape)))
        assert is_fused(block(maps())) and seen == [(5, 4, 9, 7)]

    def test_a_weight_is_parametrized(self) -> None:
        block = make_block()
        nn.utils.parametrizations.weight_norm(block.conv)
        assert not is_fused(block(maps()))

    def test_the_padding_is_not_zeros(self) -> None:
        with pytest.raises(TypeError, match="conv is"):
            ConvBlock(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))

    def test_torch_func_is_at_work(self) -> None:
        block = make_block().eval()
        parameters = dict(block.named_parameters())

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            output: Tensor = torch.func.functional_call(block, parameters, (maps(),))
            return output.square().sum()

        found = torch.func.grad(loss)(parameters)
        block(maps()).square().sum().backward()
        for name, parameter in block.named_parameters():
            assert relative_error(found[name], parameter.grad) <= TOLERANCE


def test_used_twice_in_one_pass() -> None:
    torch.manual_seed(0)
    conv = pb.BandLimitedConv2d(4, 4, 3, padding=1, bias=False, compression=0.5)
    block = ConvBlock(conv, nn.BatchNorm2d(4), nn.ReLU())
    other = copy.deepcopy(block)
    block(block(maps())).square().sum().backward()
    one_by_one(other, one_by_one(other, maps())).square().sum().backward()
    assert_same_state(block, other)


def test_gradients_accumulate() -> None:
    block = make_block()
    other = copy.deepcopy(block)
    for seed in (0, 1, 2):
        block(maps(seed=seed)).square().sum().backward()
        one_by_one(other, maps(seed=seed)).square().sum().backward()
    nn.utils.clip_grad_norm_(block.parameters(), 1.0)
    nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    assert_same_state(block, other)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_around_it(reentrant: bool) -> None:
    block = make_block()
    other = copy.deepcopy(block)
    for run in (block, lambda x: one_by_one(other, x)):
        x = maps().requires_grad_()
        output = torch.utils.checkpoint.checkpoint(run, x, use_reentrant=reentrant)
        output.square().sum().backward()
    assert_same_state(block, other)  # running statistics are updated twice by both


@pytest.mark.parametrize("last", [False, True])
def test_memory_order(last: bool) -> None:
    block = make_block()
    x, cotangent = maps().requires_grad_(), random(5, 6, 9, 7, dtype=torch.float32, seed=3)
    expected = torch.autograd.grad(one_by_one(block, x), x, cotangent)[0]
    if last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    output = block(x)
    form = torch.channels_last if last else torch.contiguous_format
    assert output.is_contiguous(memory_format=form)
    (found,) = torch.autograd.grad(output, x, cotangent)
    assert found.is_contiguous(memory_format=form)
    assert relative_error(found, expected) <= TOLERANCE


def test_autocast() -> None:
    """Spectra are kept in bfloat16; the output is made of what is kept."""
    block, x = make_block(), maps().requires_grad_()
    exact = torch.autograd.grad(block(x).square().sum(), [x, *block.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        output = block(x)
        single = one_by_one(block, x)
    assert output.dtype == single.dtype == torch.bfloat16
    found = torch.autograd.grad(output.float().square().sum(), [x, *block.parameters()])
    theirs = torch.autograd.grad(single.float().square().sum(), [x, *block.parameters()])
    for ours, plain, true in zip(found, theirs, exact, strict=True):
        # as near to the float32 gradient as the single modules are; ReLUs change sides near zero
        assert relative_error(ours, true) <= 2 * max(relative_error(plain, true), 2**-7)


def test_unknown_module_is_a_clear_error() -> None:
    with pytest.raises(TypeError, match="norm is GroupNorm"):
        ConvBlock(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
