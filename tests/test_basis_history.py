"""How perpetuals and dated futures move against their index: by a basis of their own, by forwards, or by a stand-in."""

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from marginax.history import FactorHistory
from markets import AS_OF, BARS, config, days, series, tables


def factors(*extra: pl.DataFrame, **settings: Any) -> FactorHistory:
    """The factors of the tiny venue with these rows beside its prices."""
    given = tables(history=pl.concat([markets.history(), *extra], how="diagonal"))
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")}, as_of=AS_OF)
    return mx.load_model(config(**settings)).factors(market, book.instruments)


def values(name: str, factor: str, numbers: np.ndarray, times: list[Any] | None = None) -> pl.DataFrame:
    """History rows of a factor that is no price."""
    rows = series(name, numbers, times).rename({"price": "value"})
    return rows.with_columns(price=pl.lit(None, pl.Float64), factor=pl.lit(factor))


def noise(size: float, bars: int = BARS) -> np.ndarray:
    return size * np.random.default_rng(11).standard_normal(bars)


def column(found: FactorHistory, instrument: str) -> int:
    return found.names.index(f"basis:{instrument}")


def test_every_perpetual_and_future_has_a_basis_and_spot_has_none() -> None:
    found = factors()
    listed = markets.instruments().filter(pl.col("kind") != "spot")["instrument_id"]
    assert set(found.names[found.underlyings :]) == {f"basis:{name}" for name in listed}


def test_without_a_history_a_basis_stands_on_configured_noise_that_grows_with_its_expiry() -> None:
    found = factors()
    perpetual, future, later = (found.noise[column(found, name)] for name in ("ETH-PERP", "BTC-FUT", "ETH-FUT"))
    assert perpetual == 0.002
    assert perpetual < future < later
    assert later == pytest.approx(np.hypot(0.002, 0.005 * (176 + 1 / 3) / 365))
    assert found.noisy[found.underlyings :].all()


def test_a_basis_stated_for_an_underlying_moves_its_perpetuals_and_no_future() -> None:
    basis = noise(0.001)
    found = factors(values("BTC", "basis", basis))
    for name in ("BTC-PERP", "BTC-INV"):
        assert found.own[column(found, name)]
        np.testing.assert_allclose(found.returns[:, column(found, name)], np.diff(basis))
    assert not found.own[column(found, "BTC-FUT")]
    assert not found.own[column(found, "ETH-PERP")]


def test_a_basis_stated_for_an_instrument_is_its_own_and_comes_first() -> None:
    shared, own = noise(0.001), noise(0.003)[::-1]
    found = factors(values("BTC", "basis", shared), values("BTC-INV", "basis", own), values("BTC-FUT", "basis", own))
    for name, expected in (("BTC-PERP", shared), ("BTC-INV", own), ("BTC-FUT", own)):
        np.testing.assert_allclose(found.returns[:, column(found, name)], np.diff(expected))


def test_a_future_without_a_basis_of_its_own_moves_by_the_nearest_forward() -> None:
    """Its annualised basis is that of the tenor; what it gains is that times its own years."""
    spot = markets.history().filter(underlying="BTC")["price"].to_numpy()
    carry = 0.05 + noise(0.01)
    near = values("BTC", "forward:3m", spot * np.exp(carry / 4))
    far = values("BTC", "forward:1y", spot * np.exp(0.03 + noise(0.001)))
    found = factors(near, far)
    years = (pl.Series(markets.instruments().filter(instrument_id="BTC-FUT")["expiry"])[0] - AS_OF) / timedelta(365)
    np.testing.assert_allclose(found.returns[:, column(found, "BTC-FUT")], np.diff(carry) * years, atol=1e-12)


def test_a_basis_history_that_ended_too_long_ago_is_none() -> None:
    for ended, own in ((30, True), (61, False)):
        stamps = days(BARS, last=AS_OF - timedelta(days=ended))
        found = factors(values("BTC", "basis", noise(0.001), stamps))
        assert found.own[column(found, "BTC-PERP")] == own
        assert found.noisy[column(found, "BTC-PERP")] != own


def test_a_basis_of_a_few_bars_or_one_that_never_moved_stands_on_noise() -> None:
    few = factors(values("BTC", "basis", noise(0.001, 50)))
    assert few.noise[column(few, "BTC-PERP")] == 0.002
    still = factors(values("BTC", "basis", np.full(BARS, 0.0001)))
    assert still.frozen[column(still, "BTC-PERP")]
    assert still.noise[column(still, "BTC-PERP")] == 0.001
