"""Smiles: a missing strike gets a volatility that its neighbours and the absence of arbitrage agree with."""

import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from marginax.parity import parity_forward
from marginax.smiles import RawSvi, Smile, calendar_violations, fit_smile
from marginax_kernels.smile import svi_density_factor, svi_total_variance

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MARGINAX_SHARED") or ROOT.parent / "shared")
OPTIONS = SHARED / "data" / "options"
COIN_CHAINS = [path for path in sorted(OPTIONS.glob("deribit_*_chain_*.parquet")) if not path.stem.endswith("_depth")]
SHARE_CHAINS = sorted(OPTIONS.glob("spy_chain_*.parquet"))

HOUR = 1 / (365 * 24)
# A month of BTC, a year of an index (skewed), and a steep week; total variance at the money 0.021, 0.044 and 0.016.
KNOWN = {
    "month": (RawSvi(a=0.010, b=0.08, rho=-0.2, m=0.01, sigma=0.14), 30 / 365),
    "year": (RawSvi(a=0.002, b=0.14, rho=-0.7, m=0.12, sigma=0.25), 1.0),
    "week": (RawSvi(a=0.004, b=0.15, rho=0.1, m=-0.02, sigma=0.08), 7 / 365),
}


def quotes(svi: RawSvi, years: float, *, strikes: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Strikes over two standard deviations either way, and the volatility of each."""
    k = np.linspace(-2, 2, strikes) * np.sqrt(svi.total_variance(0.0))
    return k, np.sqrt(svi.total_variance(k) / years)


def calls(smile: Smile, k: np.ndarray) -> np.ndarray:
    """Undiscounted calls by Black's formula, per unit of the forward."""
    deviation = smile.volatility(k) * np.sqrt(smile.years)
    high = -k / deviation + deviation / 2
    return ndtr(high) - np.exp(k) * ndtr(high - deviation)


def far_and_wide(smile: Smile) -> np.ndarray:
    """Strikes at which a butterfly could be struck: around the quotes, and far beyond them."""
    low, high = smile.log_moneyness[0], smile.log_moneyness[-1]
    span = max(high - low, 0.1)
    return np.concatenate([np.linspace(low - span, high + span, 3001), np.linspace(-30, 30, 3001)])


@pytest.mark.parametrize("name", KNOWN)
def test_a_smile_that_is_svi_comes_back(name: str) -> None:
    svi, years = KNOWN[name]
    smile = fit_smile(*quotes(svi, years), years)
    between = np.linspace(smile.log_moneyness[0], smile.log_moneyness[-1], 301)
    # The search stops where a step gains next to nothing: a hundredth of a volatility point away at most.
    np.testing.assert_allclose(smile.volatility(between), np.sqrt(svi.total_variance(between) / years), atol=1e-4)
    assert smile.rms < 1e-4
    assert smile.butterfly_free


def test_noise_is_smoothed_and_not_followed(rng: np.random.Generator) -> None:
    svi, years = KNOWN["month"]
    k, clean = quotes(svi, years, strikes=41)
    smile = fit_smile(k, clean + rng.normal(0, 0.01, 41), years)
    # Five parameters take up about sqrt(5 / 41) = 0.35 of the noise; twice that is far beyond chance.
    assert np.sqrt(np.mean((smile.volatility(k) - clean) ** 2)) < 0.007
    assert smile.rms == pytest.approx(0.01, rel=0.4)


def test_a_quote_with_more_weight_is_met_more_closely() -> None:
    svi, years = KNOWN["month"]
    k, vol = quotes(svi, years)
    vol[12] += 0.05
    weight = np.ones(25)
    plain = fit_smile(k, vol, years, weight=weight)
    weight[12] = 1e4
    heavy = fit_smile(k, vol, years, weight=weight)
    assert abs(heavy.volatility(k[12]) - vol[12]) < 0.1 * abs(plain.volatility(k[12]) - vol[12])
    np.testing.assert_allclose(plain.volatility(k), fit_smile(k, vol, years).volatility(k), rtol=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_a_fitted_smile_has_a_density_that_is_positive_and_sums_to_one(name: str) -> None:
    svi, years = KNOWN[name]
    k, vol = quotes(svi, years)
    smile = fit_smile(k, vol + 0.02 * np.cos(np.arange(25) * 2.0), years)
    assert smile.svi is not None
    # Over k the density of log(K / F) is g(k) n(d2) / sqrt(w); the rest lies beyond a thousand standard deviations.
    spread = np.linspace(-30, 30, 600_001)
    deviation = np.sqrt(smile.svi.total_variance(spread))
    low = -spread / deviation - deviation / 2
    density = smile.svi.durrleman(spread) * np.exp(-(low**2) / 2) / np.sqrt(2 * np.pi) / deviation
    assert density.min() >= 0
    assert np.trapezoid(density, spread) == pytest.approx(1, abs=1e-5)
    assert np.trapezoid(density * np.exp(spread), spread) == pytest.approx(1, abs=1e-4)


def test_quotes_with_a_butterfly_that_loses_money_get_a_smile_without() -> None:
    # Axel Vogt's example, the classic of a slice that looks harmless: g falls below zero about k = 0.8.
    vogt = RawSvi(a=-0.0410, b=0.1331, rho=0.3060, m=0.3586, sigma=0.4153)
    k = np.linspace(-1.2, 1.2, 41)
    assert vogt.durrleman(k).min() < -0.01
    smile = fit_smile(k, np.sqrt(vogt.total_variance(k)), 1.0)
    assert smile.svi is not None
    assert smile.butterfly_free
    assert smile.svi.durrleman(far_and_wide(smile)).min() >= 0
    assert 1e-4 < smile.rms < 0.02  # it had to give way somewhere, and not far
    strikes = np.exp(np.linspace(-1.5, 1.5, 301))
    slopes = np.diff(calls(smile, np.log(strikes))) / np.diff(strikes)
    assert np.diff(slopes).min() > -1e-12
    assert slopes.min() >= -1
    assert slopes.max() <= 0


@pytest.mark.parametrize("years", [HOUR, 7 / 365, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_quotes_the_smile_is_finite_positive_and_without_arbitrage(years: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = np.unique(rng.uniform(-3, 3, 5 + 7 * seed)) * np.sqrt(years) * rng.choice([0.05, 0.6, 2.0])
    smile = fit_smile(k, np.exp(rng.uniform(np.log(0.05), np.log(5), len(k))), years)
    wide = far_and_wide(smile)
    assert smile.svi is not None
    assert smile.butterfly_free
    assert smile.svi.durrleman(wide).min() >= 0
    assert np.isfinite(smile.at(wide)).all()
    assert smile.at(wide).min() > 0
    assert smile.svi.b * (1 + abs(smile.svi.rho)) <= 2
    assert smile.svi.a + smile.svi.b * smile.svi.sigma * np.sqrt(1 - smile.svi.rho**2) > 0


@pytest.mark.parametrize("vol", [0.05, 0.6, 5.0])
@pytest.mark.parametrize("years", [HOUR, 1.0])
def test_a_flat_chain_gives_a_flat_smile(vol: float, years: float) -> None:
    k = np.linspace(-2, 2, 15) * 0.6 * np.sqrt(years)
    smile = fit_smile(k, np.full(15, vol), years)
    assert smile.rms < 1e-5 * vol
    np.testing.assert_allclose(smile.volatility(2 * k), vol, rtol=1e-4)
    assert smile.butterfly_free


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 12])
def test_the_smile_at_a_quoted_strike_is_the_quote(name: str, count: int) -> None:
    svi, years = KNOWN[name]
    k, vol = quotes(svi, years, strikes=count)
    vol = vol * (1 + 0.1 * np.sin(np.arange(count) * 3.0))
    np.testing.assert_allclose(fit_smile(k, vol, years).at(k), vol, rtol=1e-13)


def test_few_strikes_carry_total_variance_linear_between_them_and_flat_volatility_beyond() -> None:
    smile = fit_smile([0.1, -0.1, 0.0], [0.7, 0.9, 0.6], 0.5)
    np.testing.assert_allclose(smile.volatility([-0.1, 0.0, 0.1]), [0.9, 0.6, 0.7], rtol=1e-14)
    np.testing.assert_allclose(smile.volatility([-5, 5]), [0.9, 0.7], rtol=1e-14)
    assert smile.volatility(0.05) ** 2 == pytest.approx((0.6**2 + 0.7**2) / 2, rel=1e-14)
    np.testing.assert_allclose(smile.at([-3.0, 0.03, 0.08]), smile.volatility([-3.0, 0.03, 0.08]), rtol=1e-14)
    assert smile.svi is None
    assert not smile.butterfly_free  # the call price bends the wrong way where the volatility turns flat


def test_one_strike_is_a_flat_smile() -> None:
    smile = fit_smile([0.2], [0.8], 0.1)
    np.testing.assert_allclose(smile.at([-9.0, 0.2, 9.0]), 0.8, rtol=1e-14)
    assert smile.butterfly_free


def test_quotes_of_one_strike_are_one_strike() -> None:
    smile = fit_smile(np.full(8, 0.2), [0.7, 0.9] * 4, 0.1)
    assert smile.log_moneyness.tolist() == [0.2]
    assert smile.at(0.0) == pytest.approx(0.8, rel=1e-14)
    heavy = fit_smile([0.2, 0.2], [0.7, 0.9], 0.1, weight=[3, 1])
    assert heavy.at(0.0) == pytest.approx(0.75, rel=1e-14)


def test_a_missing_volatility_is_missing_and_no_more() -> None:
    svi, years = KNOWN["month"]
    k, vol = quotes(svi, years)
    holes, weight = vol.copy(), np.ones(25)
    holes[3], holes[7], holes[9] = np.nan, 0.0, np.inf
    weight[20] = np.nan
    left = np.isin(np.arange(25), [3, 7, 9, 20], invert=True)
    damaged, thinner = fit_smile(k, holes, years, weight=weight), fit_smile(k[left], vol[left], years)
    np.testing.assert_array_equal(damaged.volatility(k), thinner.volatility(k))


def test_the_order_of_the_quotes_does_not_matter(rng: np.random.Generator) -> None:
    svi, years = KNOWN["year"]
    k, vol = quotes(svi, years)
    mixed = rng.permutation(25)
    np.testing.assert_array_equal(
        fit_smile(k[mixed], vol[mixed], years).volatility(k), fit_smile(k, vol, years).volatility(k)
    )


def test_what_is_no_smile_is_refused() -> None:
    with pytest.raises(ValueError, match="None of 2 quotes has a strike and a volatility"):
        fit_smile([0.0, 0.1], [np.nan, 0.0], 1.0)
    with pytest.raises(ValueError, match="None of 0 quotes"):
        fit_smile([], [], 1.0)
    for years in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="leaves no time for a volatility"):
            fit_smile([0.0], [0.5], years)
    with pytest.raises(ValueError, match="Give one of each"):
        fit_smile([0.0, 0.1], [0.5], 1.0)


def test_an_option_that_would_lose_value_by_living_longer_is_found() -> None:
    k = np.linspace(-0.3, 0.3, 13)
    near, far = fit_smile(k, np.full(13, 0.6), 0.5), fit_smile(k, 0.5 + k**2, 0.6)
    assert calendar_violations([near, fit_smile(k, np.full(13, 0.6), 0.6)]) == []
    [found] = calendar_violations([far, near])
    assert (found.near, found.far) == (1, 0)
    assert found.log_moneyness == pytest.approx(0, abs=0.01)
    assert found.shortfall == pytest.approx(0.6**2 * 0.5 - 0.5**2 * 0.6, rel=0.05)  # the parabola is no SVI


def test_expiries_that_quote_no_strike_in_common_are_not_compared() -> None:
    k = np.linspace(0.0, 0.3, 7)
    near, far = fit_smile(k - 0.5, np.full(7, 0.9), 0.5), fit_smile(k, np.full(7, 0.2), 0.6)
    assert calendar_violations([near, far]) == []
    assert calendar_violations([near]) == []
    assert calendar_violations([]) == []


@pytest.mark.parametrize("name", KNOWN)
def test_the_host_and_the_device_speak_of_the_same_smile(name: str, double: None) -> None:
    svi, _ = KNOWN[name]
    k = np.linspace(-2, 2, 101)
    raw = (svi.a, svi.b, svi.rho, svi.m, svi.sigma)
    # A dozen roundings of terms that are up to a hundred times their sum.
    np.testing.assert_allclose(svi.total_variance(k), svi_total_variance(k, *raw), rtol=1e-13)
    np.testing.assert_allclose(svi.durrleman(k), svi_density_factor(k, *raw), rtol=1e-11, atol=1e-13)


def test_a_chain_of_twelve_expiries_takes_well_under_a_second(rng: np.random.Generator) -> None:
    chain = []
    for years in np.geomspace(1 / 365, 2, 12):
        k = np.linspace(-2.5, 1.5, 60) * 0.5 * np.sqrt(years)
        chain.append((k, 0.5 - 0.1 * k / np.sqrt(years) + rng.normal(0, 0.01, 60), years))
    start = time.process_time()
    for k, vol, years in chain:
        fit_smile(k, vol, years)
    assert time.process_time() - start < 2  # measured 0.1 to 0.2; an order more is a fault, a busy machine is none


Quotes = tuple[np.ndarray, np.ndarray, float]
Reader = Callable[[Path], tuple[Quotes, ...]]


@cache
def _coin_chain(path: Path) -> tuple[Quotes, ...]:
    chain = pl.read_parquet(path)
    keys = [key for key in ("snapshot_time", "currency", "expiry") if key in chain.columns]
    expiries = chain.partition_by(keys, maintain_order=True)
    # Enough to speak for the file, few enough to be quick.
    return tuple(_coin_quotes(expiries[n]) for n in range(0, len(expiries), max(1, len(expiries) // 60)))


def _coin_quotes(expiry: pl.DataFrame) -> Quotes:
    forward = float(np.median(expiry["underlying_price"]))
    return *_out_of_the_money(expiry, forward, "mark_iv"), float(np.median(expiry["tau_years"]))


@cache
def _share_chain(path: Path) -> tuple[Quotes, ...]:
    chain = pl.read_parquet(path).filter((pl.col("bid") > 0) & (pl.col("dte") > 0))
    chain = chain.with_columns(mid=(pl.col("bid") + pl.col("ask")) / 2)
    found = []
    for expiry in chain.partition_by("quote_date", "expiry", maintain_order=True):
        sides = (expiry.filter(option_type=side) for side in ("call", "put"))
        pairs = next(sides).join(next(sides), on="strike", suffix="_put")
        index = expiry["underlying_price"][0]
        parity = parity_forward(pairs["strike"], pairs["mid"], pairs["mid_put"], premium="upfront", index=index)
        if np.isfinite(parity.forward):
            found.append((*_out_of_the_money(expiry, parity.forward, "iv"), expiry["dte"][0] / 365))
    return tuple(found)


def _out_of_the_money(expiry: pl.DataFrame, forward: float, column: str) -> tuple[np.ndarray, np.ndarray]:
    side = pl.when(pl.col("strike") >= forward).then(pl.lit("call")).otherwise(pl.lit("put"))
    rows = expiry.filter((pl.col("option_type") == side) & (pl.col(column) > 0)).unique("strike").sort("strike")
    return np.log(rows["strike"].to_numpy() / forward), rows[column].to_numpy()


def _held_out(chain: tuple[Quotes, ...]) -> Iterator[tuple[np.ndarray, np.ndarray, Smile]]:
    """Every second strike within the range of the others, its quote, and the smile of the others."""
    for k, vol, years in chain:
        place = np.arange(len(k))
        out = (place % 2 == 1) & (place < len(k) - 1)
        if np.sum(~out) >= 5:
            yield k[out], vol[out], fit_smile(k[~out], vol[~out], years)


CHAINS = [
    *(pytest.param(_coin_chain, path, id=path.stem) for path in COIN_CHAINS),
    *(pytest.param(_share_chain, path, id=path.stem) for path in SHARE_CHAINS),
]
REAL = pytest.mark.skipif(not CHAINS, reason=f"no option chains in {OPTIONS}; name the folder with MARGINAX_SHARED")


@REAL
@pytest.mark.parametrize(("read", "path"), CHAINS)
def test_real_chains_get_smiles_near_their_quotes_and_free_of_butterflies(read: Reader, path: Path) -> None:
    smiles = [fit_smile(*quoted) for quoted in read(path) if len(quoted[0])]
    fitted = [smile for smile in smiles if smile.svi is not None]
    assert fitted
    assert all(smile.butterfly_free for smile in fitted)
    assert min(smile.svi.durrleman(far_and_wide(smile)).min() for smile in fitted if smile.svi) >= 0
    # Half to one point on the chains seen; only the median, as the wings of an expiry's last hours may be far off.
    assert np.median([smile.rms for smile in fitted]) < 0.03


@REAL
@pytest.mark.parametrize(("read", "path"), CHAINS)
def test_a_strike_left_out_of_a_real_chain_is_found_again(read: Reader, path: Path) -> None:
    by_smile, by_line, by_fit = [], [], []
    for k, vol, smile in _held_out(read(path)):
        by_smile.append(np.abs(smile.at(k) - vol))
        by_fit.append(np.abs(smile.volatility(k) - vol))
        by_line.append(np.abs(np.interp(k, smile.log_moneyness, smile.quoted) - vol))
    smile_error, line_error, fit_error = (np.concatenate(part).mean() for part in (by_smile, by_line, by_fit))
    # 0.2 to 0.7 points on the chains seen. However noisy a chain, shape should cost nothing against lines alone but
    # what chance decides.
    assert smile_error < 0.02
    assert smile_error < 1.1 * line_error
    assert smile_error < 1.1 * fit_error
