"""Promises of the learning-rate range test's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.optim.lr_range import Divergence, LrRange, remedy, suggest


def _curve(n: int = 120, *, noise: float = 0.0, level: float = 10.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A plateau, a fall centred on 1e-3, a minimum at about 1e-1, and a rise."""
    x = np.linspace(-6, 1, n)
    loss = level - 8 / (1 + np.exp(-6 * (x + 3))) + 30 * np.exp(4 * (x - 0.7))
    return 10**x, loss + noise * np.random.default_rng(seed).standard_normal(n)


def test_the_rate_grows_by_one_factor_from_start_to_end() -> None:
    schedule = LrRange(peak=2e-3, start=1e-6, end=1e-1, steps=51)
    rates = np.array([2e-3 * schedule.at(k)[0] for k in range(51)])
    assert rates[0] == pytest.approx(1e-6) and rates[-1] == pytest.approx(1e-1)
    np.testing.assert_allclose(rates[1:] / rates[:-1], rates[1] / rates[0])
    assert schedule.at(3)[1] is None, "momentum is left alone"


@pytest.mark.parametrize("options", [{"start": 0.0}, {"end": 1e-7}, {"steps": 1}, {"peak": 0.0}])
def test_a_range_that_is_none_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must hold"):
        LrRange(**{"peak": 1.0, "start": 1e-6, "end": 1.0, "steps": 10, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("level", [10.0, 0.0])  # losses may be negative
def test_the_steepest_descent_and_the_minimum_are_found_through_noise(noise: float, level: float) -> None:
    lrs, losses = _curve(noise=noise, level=level)
    found = suggest(list(lrs), list(losses))
    assert found is not None
    low = float(lrs[np.argmin(_curve(level=level)[1])])
    assert found.steepest == pytest.approx(1e-3, rel=0.8)
    assert low / 6 < found.lowest < low * 6
    assert found.lr == min(found.steepest, found.lowest / 10)
    assert f"{found.steepest:.1e}" in found.reason and "steepest descent" in found.reason


def test_the_smaller_of_the_two_rules_is_taken_and_named() -> None:
    lrs = np.logspace(-6, 0, 100)
    x = np.log10(lrs)
    loss = 5 - 3 / (1 + np.exp(-12 * (x + 2.2))) + 5 * np.maximum(0, x + 1.8) ** 2
    found = suggest(list(lrs), list(loss))
    assert found is not None and found.lr == pytest.approx(found.lowest / 10) and found.lr < found.lowest
    assert found.lr < found.steepest and found.reason.startswith("a tenth of the rate of the lowest loss")


@pytest.mark.parametrize(
    "losses",
    [np.linspace(1, 5, 60), np.full(60, 2.0), *(np.random.default_rng(k).standard_normal(60) for k in range(40))],
)
def test_a_loss_that_does_not_fall_gives_no_rate(losses: np.ndarray) -> None:
    assert suggest(list(np.logspace(-6, 0, 60)), list(losses)) is None


def test_what_is_needed_for_a_suggestion_is_told_and_works() -> None:
    rates, losses = _curve(noise=8.0)
    assert suggest(rates, losses) is None
    told = remedy(rates.tolist(), losses.tolist(), 120)
    steps = int(told.partition("steps=")[2])
    assert 120 < steps <= 2400
    assert suggest(*_curve(steps, noise=8.0)) is not None, "following the advice gives one"
    assert "it only rose" in remedy(rates.tolist(), np.linspace(1, 9, 120).tolist(), 120)
    assert remedy([1e-6] * 4, [1.0] * 4, 120) == "it ended after 4 steps; begin at a lower rate: start=1e-09"
    flat = np.random.default_rng(0).normal(size=120).tolist()
    assert "inspect_batch" in remedy(rates.tolist(), flat, 120) or "steps=" in remedy(rates.tolist(), flat, 120)


def test_too_few_or_infinite_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        suggest([1.0] * 5, [1.0] * 5)
    with pytest.raises(ValueError, match="finite"):
        suggest([1.0] * 20, [float("nan")] * 20)


def test_divergence_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    steady = Divergence()
    assert not any(steady(10 + rng.standard_normal()) for _ in range(500))
    falling = Divergence()
    assert not any(falling(100 * 0.95**k + 0.5 * rng.random()) for k in range(200))
    diverged, seen = Divergence(), [*np.full(20, 10.0), *(10 * 1.5 ** np.arange(20))]
    stop = next(k for k, loss in enumerate(seen) if diverged(float(loss)))
    assert 22 < stop < 32
    assert Divergence()(float("nan")) and Divergence()(float("inf"))


def test_divergence_of_a_negative_loss_is_seen_too() -> None:
    diverged = Divergence()
    assert not any(diverged(-5.0) for _ in range(20))
    assert any(diverged(-5.0 + 2.0 * k) for k in range(40))
