"""QuantLib as an oracle: the value and every Greek of 10,000 options drawn from a seed, under both models."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from marginax_kernels import Greeks, bachelier, black76, option_greeks, reprice_black76

ql = pytest.importorskip("QuantLib")

OPTIONS = 10_000
NAMES = Greeks._fields


@pytest.fixture(scope="module")
def book() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20260102)
    forward = np.exp(rng.uniform(-3, 11, OPTIONS))
    volatility, years = rng.uniform(0.02, 2.5, OPTIONS), np.exp(rng.uniform(np.log(1 / 365), np.log(5), OPTIONS))
    # Most strikes within three deviations; every twentieth at the money to the last bit, every twentieth far away.
    reach = np.where(np.arange(OPTIONS) % 20 == 1, 12.0, 1.5) * (np.arange(OPTIONS) % 20 > 0)
    strike = forward * np.exp(rng.standard_normal(OPTIONS) * reach * np.minimum(volatility * np.sqrt(years), 1))
    discount = np.exp(-rng.uniform(-0.02, 0.15, OPTIONS) * years)
    floats = {"forward": forward, "strike": strike, "volatility": volatility, "years": years, "discount": discount}
    return {**floats, "call": rng.random(OPTIONS) < 0.5}


def oracle(book: dict[str, np.ndarray], *, normal: bool) -> np.ndarray:
    """QuantLib's calculators, undiscounted and with the forward as spot: its theta then holds the forward."""

    def rows() -> Iterator[tuple[float, ...]]:
        calculator = ql.BachelierCalculator if normal else ql.BlackCalculator
        for forward, strike, volatility, years, discount, call in zip(
            *(each.tolist() for each in book.values()), strict=True
        ):
            payoff = ql.PlainVanillaPayoff(ql.Option.Call if call else ql.Option.Put, strike)
            width = volatility * np.sqrt(years) * (forward if normal else 1)
            option = calculator(payoff, forward, float(width), 1.0)
            vanna = option.vanna(years) if normal else option.vanna(forward, years)
            theta = option.theta(forward, years)
            greeks = (option.value(), option.deltaForward(), option.gammaForward(), option.vega(years), theta, vanna)
            yield tuple(discount * each for each in greeks)

    return np.array(list(rows()))


def sizes(book: dict[str, np.ndarray], *, normal: bool) -> np.ndarray:
    """Each Greek's size at the money, to which its rounding is in proportion."""
    forward, strike, volatility, years, discount, _ = book.values()
    deviation = volatility * np.sqrt(years)
    spread = forward * deviation
    large = np.maximum(forward, strike)
    by_volatility = 1 / volatility if not normal else 1 / (volatility * forward)
    vega = large * np.sqrt(years) if not normal else np.sqrt(years)
    theta = spread / years * (large / forward if not normal else 1)
    return (
        np.array([large, np.ones(OPTIONS), 1 / spread, vega, theta, by_volatility + np.sqrt(years) * (not normal)]).T
        * discount[:, None]
    )


@pytest.mark.parametrize("normal", [False, True])
def test_values_and_greeks_of_ten_thousand_options_are_quantlib_s(
    book: dict[str, np.ndarray], normal: bool, double: None
) -> None:
    volatility = book["volatility"] * (book["forward"] if normal else 1)
    arguments = {**book, "volatility": volatility}
    got = np.array(jax.jit(option_greeks)(**arguments, normal=np.full(OPTIONS, normal))).T
    wanted = oracle(book, normal=normal)
    # d is rounded by 2 roundings of itself and of log-moneyness over the deviation; a density turns that into
    # d^2 n(d) <= 0.3 of as many. QuantLib's own distribution function errs by up to 1e-15.
    error = np.abs(got - wanted) / sizes(book, normal=normal)
    if normal:
        # Its Bachelier calculator takes the wrong tail where its own normal density falls below a rounding: a put far
        # out of the money is worth the whole distance there. Ours are zero to a rounding; `bachelierBlackFormula` too.
        far = np.abs(book["forward"] - book["strike"]) > 8 * volatility * np.sqrt(book["years"])
        rows = zip(book["call"], book["strike"], book["forward"], volatility * np.sqrt(book["years"]), strict=True)
        sides = {True: ql.Option.Call, False: ql.Option.Put}
        plain = [ql.bachelierBlackFormula(sides[bool(call)], *(float(each) for each in row)) for call, *row in rows]
        large = np.maximum(book["forward"], book["strike"])
        assert (np.abs(got[:, 0] - book["discount"] * plain) <= 8 * np.finfo(float).eps * large).all()
        error = error[~far]
    blurred = 1 + 1 / (book["volatility"] * np.sqrt(book["years"]))
    blurred = blurred[~far] if normal else blurred
    for place, name in enumerate(NAMES):
        unit = 32 * np.finfo(float).eps * (1 if name == "value" else blurred)
        assert (error[:, place] <= unit).all(), (name, (error[:, place] / unit).max())


def test_float32_values_are_quantlib_s_to_its_own_roundings(book: dict[str, np.ndarray]) -> None:
    width = book["volatility"] * np.sqrt(book["years"])
    single = [each.astype(np.float32) for each in (book["forward"], book["strike"], width)]
    # QuantLib sees the same float32 numbers, so that the error is that of the kernel alone.
    given = [each.astype(float) for each in single]
    sides = [ql.Option.Call if call else ql.Option.Put for call in book["call"]]
    formulas = (ql.blackFormula, black76, given[2]), (ql.bachelierBlackFormula, bachelier, given[0] * given[2])
    for formula, model, widths in formulas:
        at = widths.astype(np.float32)
        rows = zip(sides, given[1].tolist(), given[0].tolist(), at.astype(float).tolist(), strict=True)
        wanted = np.array([formula(*row) for row in rows])
        got = np.asarray(jax.jit(model)(single[0], single[1], at, call=book["call"]), float)
        assert got.dtype == float
        size = np.maximum(np.maximum(given[0], given[1]), at if model is bachelier else 0)
        assert (np.abs(got - wanted) <= 8 * np.finfo(np.float32).eps * size).all()


def test_a_cube_of_ten_thousand_cells_is_quantlib_s(
    book: dict[str, np.ndarray], precision: np.dtype, rng: np.random.Generator
) -> None:
    options, expiries, scenarios = 100, 10, 100
    expiry = np.arange(options) % expiries
    log_move = rng.normal(0, 0.1, (expiries, scenarios)).astype(precision)
    multiple = np.exp(rng.normal(0, 0.2, (expiries, scenarios))).astype(precision)
    width = (book["volatility"] * np.sqrt(book["years"]))[:options].astype(precision)
    forward, strike = (book[name][:options].astype(precision) for name in ("forward", "strike"))
    call = book["call"][:options]
    got = np.asarray(
        reprice_black76(log_move, multiple, expiry.astype(np.int32), forward, strike, width, call=call), float
    )
    moved = forward[:, None].astype(float) * np.exp(log_move.astype(float))[expiry]
    widths = width[:, None].astype(float) * multiple.astype(float)[expiry]
    wanted = np.empty_like(moved)
    for row, column in np.ndindex(wanted.shape):
        side = ql.Option.Call if call[row] else ql.Option.Put
        wanted[row, column] = ql.blackFormula(side, float(strike[row]), moved[row, column], widths[row, column])
    size = np.maximum(moved, strike[:, None].astype(float))
    assert (np.abs(got - wanted) <= 8 * np.finfo(precision).eps * size).all()
