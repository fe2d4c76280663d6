from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from mltrain.optim import ModelEma


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


def _train_step(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
                parameter.grad = None


def test_the_decay_warms_up_and_stops_at_its_value():
    ema = ModelEma(_net(), decay=0.9)
    assert [ema.decay_at(t) for t in (0, 1, 8, 80, 1000)] == pytest.approx([0.1, 2 / 11, 0.5, 0.9, 0.9])
    assert ModelEma(_net(), decay=0.9, warmup=False).decay_at(0) == 0.9


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_equals_the_formula_for_parameters_and_batch_norm_statistics(warmup):
    model = _net()
    ema = ModelEma(model, decay=0.6, warmup=warmup)
    expected = {name: value.double().clone() for name, value in model.state_dict().items()}
    for t in range(12):
        _train_step(model, t)
        ema.update()
        d = min(0.6, (1 + t) / (10 + t)) if warmup else 0.6
        for name, value in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * value.double() if value.is_floating_point() else value
    assert ema.updates == 12
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-6, atol=1e-6)
    assert ema.module[1].num_batches_tracked.item() == 12


def test_the_copy_is_an_evaluable_module_apart_from_the_model():
    model = _net().train()
    ema = ModelEma(model)
    assert not any(module.training for module in ema.module.modules())
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = {name: value.clone() for name, value in ema.module.named_parameters()}
    _train_step(model, 0)
    assert all(torch.equal(value, before[name]) for name, value in ema.module.named_parameters())


def test_frozen_parameters_cost_nothing_and_stay():
    model = _net()
    model[0].requires_grad_(False)
    ema = ModelEma(model, decay=0.5, warmup=False)
    _train_step(model, 0)
    ema.update()
    assert torch.equal(ema.module[0].weight, model[0].weight)
    assert not any(tensor is ema.module[0].weight for tensor in ema._shadows)


def test_half_precision_weights_are_averaged_in_float32():
    model = nn.Linear(8, 8).bfloat16()
    ema = ModelEma(model, decay=0.99, warmup=False)
    start = model.weight.float().clone()
    with torch.no_grad():
        model.weight += 1
    ema.update()
    assert ema.module.weight.dtype == torch.float32
    torch.testing.assert_close(ema.module.weight, start + 0.01 * (model.weight.float() - start))


def test_wrapped_models_give_the_bare_module():
    model = _net()
    ema = ModelEma(nn.DataParallel(torch.compile(model)), decay=0.5)
    assert list(ema.module.state_dict()) == list(model.state_dict())
    start = model[3].bias.detach().clone()
    _train_step(model, 0)
    ema.update()
    torch.testing.assert_close(ema.module[3].bias, start + 0.9 * (model[3].bias - start).detach())
    assert not torch.equal(ema.module[3].bias, start)


def test_channels_last_is_kept():
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    assert ModelEma(model).module.weight.is_contiguous(memory_format=torch.channels_last)


class Rebinding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("level", torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.twin = nn.Module()
        self.twin.register_buffer("level", self.level)

    def advance(self) -> None:
        self.level = self.level + 1
        self.count = self.count + 1


def test_buffers_a_module_rebinds_are_followed():
    model = Rebinding()
    ema = ModelEma(model, decay=0.5, warmup=False)
    for _ in range(2):
        model.advance()
        ema.update()
    assert ema.module.level.item() == 1.25
    assert ema.module.count.item() == 2


def test_a_tensor_in_two_places_is_averaged_once():
    model = Rebinding()
    model.tied = nn.Module()
    model.tied.weight = model.weight
    ema = ModelEma(model, decay=0.75, warmup=False)
    with torch.no_grad():
        model.weight += 4
        model.level += 4
    ema.update()
    assert ema.module.tied.weight.item() == ema.module.twin.level.item() == 1.0


def test_a_saved_average_goes_on_as_if_never_stopped():
    model, other = _net(), _net()
    ema = ModelEma(model, decay=0.9)
    for step in range(3):
        _train_step(model, step)
        ema.update()
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "ema": ema.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = ModelEma(other, decay=0.9)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["ema"])
    for one, average in ((model, ema), (other, resumed)):
        _train_step(one, 9)
        average.update()
    assert resumed.updates == ema.updates == 4
    for name, value in ema.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


@pytest.mark.parametrize("decay", [-0.1, 1.0, 9997])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        ModelEma(_net(), decay=decay)


@pytest.mark.gpu
def test_update_on_a_gpu_equals_the_cpu_and_never_waits_for_it():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = _net()
    on_gpu = _net()
    on_gpu.load_state_dict(model.state_dict())
    on_gpu.cuda()
    averages = [ModelEma(model), ModelEma(on_gpu)]
    for one in (model, on_gpu):
        with torch.no_grad():
            for parameter in one.parameters():
                parameter += 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        averages[1].update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    averages[0].update()
    for name, value in averages[0].module.state_dict().items():
        torch.testing.assert_close(averages[1].module.state_dict()[name].cpu(), value)
