"""The six baselines as margin models: their charges in `margin_book`, their shares, and what they are made of."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

import marginax as mx
from calibration._engine import AGAIN, HAIRCUT, NOTHING, again, history_of, margined, prices_at, sources, spot
from calibration._histories import baselines, configured, prices
from calibration._laws import stated_figures, stated_fit
from marginax.config import parse_config
from marginax.models import garch
from marginax.sections import Engine
from marginax_calibration.models import BASELINES, load_models
from reference import tail
from reference.samples import rounding

NAMES = ("AAA", "BTC", "CCC", "DDD")
LAST = 250  # the last bar of the history: as many returns
PARTS = ("core", "collateral", "haircut", "floor")
# Contracts in USD of notional; `two` is long and short of BTC in two instruments, `secured` holds CCC as collateral.
HELD: dict[str, dict[str, float]] = {
    "one": {"AAA": 1.0},
    "two": {"BTC": 1.0, AGAIN: -1.0},
    "pair": {"AAA": 0.5, "BTC": -0.8},
    "secured": {"AAA": 1.0, "DDD": -0.5},
}
COLLATERAL = {"secured": {"CCC": 0.4, "USD": 1.0}, "saver": {"CCC": 1.0}}


def closes() -> np.ndarray:
    return prices()[: LAST + 1, :4]


def moves() -> np.ndarray:
    """P&L of one USD in each underlying, bar by bar."""
    return closes()[1:] / closes()[:-1] - 1


@cache
def venue() -> tuple[mx.Book, mx.Market]:
    """The book and its market."""
    price = prices_at(NAMES, LAST)
    listed = [*(spot(name, price[name], LAST) for name in NAMES), again(price, LAST)]
    marks = {**price, AGAIN: price["BTC"]}
    held = [(account, name, amount / marks[name]) for account, legs in HELD.items() for name, amount in legs.items()]
    owned = [
        (account, asset, amount / price.get(asset, 1.0))
        for account, assets in COLLATERAL.items()
        for asset, amount in assets.items()
    ]
    balances = pl.DataFrame(owned, schema=NOTHING.schema, orient="row")
    return sources(listed, held, balances, price, history_of(NAMES, LAST))


@cache
def result(preset: str) -> mx.Result:
    return mx.margin_book(*venue(), margined(preset))


def rows(preset: str) -> dict[str, dict[str, Any]]:
    return {row["account_id"]: row for row in result(preset).margins.iter_rows(named=True)}


def losses(account: str, *, collateral: bool = False) -> np.ndarray:
    """What an account would have lost in each of the past bars, by its holdings of today."""
    held = dict(HELD[account])
    if collateral:
        held |= {name: held.get(name, 0) + amount for name, amount in COLLATERAL[account].items() if name != "USD"}
    return -sum(amount * moves()[:, NAMES.index(name.removesuffix("-AGAIN"))] for name, amount in held.items())


EQUAL = np.full(LAST, 1 / LAST)
AGES = 0.5 ** (np.arange(LAST - 1, -1, -1) / 11.2024)
# Cubes are float32: a handful of legs, none of which moves by more than half of what is held in a bar.
NEAR = rounding(np.dtype(np.float32), 4, 0.5)
# A fit of `garch` is compiled for every shape of tile, so it has tests of its own below.
FIVE = tuple(name for name in BASELINES if name != "garch")


def shortfall(probability: float) -> float:
    """Tail mean of the normal law."""
    return float(stats.norm.pdf(stats.norm.isf(probability)) / probability)


@pytest.mark.parametrize("preset", FIVE)
def test_every_account_is_charged_and_its_shares_sum_to_its_parts(preset: str) -> None:
    margins, shares = rows(preset), result(preset).attribution()
    assert {row["status"] for row in margins.values()} == {"ok"}
    for account, row in margins.items():
        part = shares.filter(account_id=account)
        for name in PARTS:
            assert part[name].sum() == pytest.approx(row[name], abs=NEAR), (account, name)
        assert part["total"].sum() == pytest.approx(row["initial_margin"], abs=NEAR)
        # A row for each position, and for CCC where it is collateral.
        assert part.height == len(HELD.get(account, {})) + (account in COLLATERAL)
    assert margins["saver"]["initial_margin"] == 0
    # Selling the collateral in a hurry costs a tenth of it, whatever the model.
    assert margins["secured"]["haircut"] == pytest.approx(HAIRCUT * 0.4, abs=NEAR)
    ratio = configured(preset).settings.risk.maintenance_ratio
    for row in margins.values():
        risk = row["core"] + row["collateral"] + row["floor"]
        assert row["maintenance_margin"] == pytest.approx(ratio * risk + row["haircut"], abs=NEAR)


@pytest.mark.parametrize("preset", ["hs", "static"])
def test_plain_history_charges_the_tail_mean_of_the_joint_loss(preset: str) -> None:
    for account in HELD:
        row, secured = rows(preset)[account], account in COLLATERAL
        joint, alone = losses(account, collateral=secured), losses(account)
        assert row["var"] == pytest.approx(tail.value_at_risk(joint, EQUAL, tail=0.01), abs=NEAR)
        assert row["expected_shortfall"] == pytest.approx(tail.expected_shortfall(joint, EQUAL, tail=0.01), abs=NEAR)
        assert row["core"] == pytest.approx(tail.expected_shortfall(alone, EQUAL, tail=0.025), abs=NEAR)
        charge = tail.expected_shortfall(joint, EQUAL, tail=0.025)
        assert row["core"] + row["collateral"] == pytest.approx(charge, abs=NEAR)


def test_the_normal_law_charges_multiples_of_the_deviation_by_an_ewma_covariance() -> None:
    """sigma^2 = w' S w, S the exponentially weighted mean of the outer products of the bars' moves."""
    weights = AGES / AGES.sum()
    covariance = np.zeros((4, 4))
    for weight, move in zip(weights, moves(), strict=True):
        covariance += weight * np.outer(move, move)
    for account in ("one", "pair", "secured"):
        held = np.array([HELD[account].get(name, 0.0) for name in NAMES])
        joint = held + [COLLATERAL.get(account, {}).get(name, 0.0) for name in NAMES]
        alone, sigma = (float(np.sqrt(each @ covariance @ each)) for each in (held, joint))
        row = rows("ewma")[account]
        assert row["var"] == pytest.approx(stats.norm.isf(0.01) * sigma, abs=NEAR)
        assert row["expected_shortfall"] == pytest.approx(shortfall(0.01) * sigma, abs=NEAR)
        assert row["core"] == pytest.approx(shortfall(0.025) * alone, abs=NEAR)
        assert row["core"] + row["collateral"] == pytest.approx(shortfall(0.025) * sigma, abs=NEAR)


def test_fixed_legs_know_no_offset_and_others_do() -> None:
    """Long and short of BTC in two instruments pay for both; with plain history one cancels the other."""
    unit = tail.expected_shortfall(np.abs(moves()[:, 1]), EQUAL, tail=0.025)
    assert rows("fixed_legs")["two"]["initial_margin"] == pytest.approx(2 * unit, abs=NEAR)
    for preset in ("hs", "fhs", "static", "ewma"):
        assert rows(preset)["two"]["initial_margin"] < NEAR


def test_fixed_legs_sum_over_positions_and_collateral_by_size() -> None:
    sums = {}
    for probability in (0.01, 0.025):
        unit = [tail.expected_shortfall(np.abs(moves()[:, k]), EQUAL, tail=probability) for k in range(4)]
        sums[probability] = (unit[0] + 0.5 * unit[3], 0.4 * unit[2])
    row = rows("fixed_legs")["secured"]
    assert (row["core"], row["collateral"]) == pytest.approx(sums[0.025], abs=NEAR)
    assert row["expected_shortfall"] == pytest.approx(sum(sums[0.01]), abs=NEAR)
    quantile = [tail.value_at_risk(np.abs(moves()[:, k]), EQUAL, tail=0.01) for k in range(4)]
    assert row["var"] == pytest.approx(quantile[0] + 0.5 * quantile[3] + 0.4 * quantile[2], abs=NEAR)
    each = result("fixed_legs").attribution(["secured"])
    assert each.filter(instrument_id="DDD")["core"].item() > 0


@pytest.mark.parametrize("preset", ["hs", "ewma"])
def test_the_tail_that_is_charged_changes_the_charge_and_no_figure_of_risk(preset: str) -> None:
    wider = configured(preset, risk={"charge_tail": 0.05}, collateral={"haircuts": {"CCC": HAIRCUT}})
    margins = mx.margin_book(*venue(), wider).margins
    wide = {row["account_id"]: row for row in margins.iter_rows(named=True)}
    for account, row in rows(preset).items():
        for figure in ("var", "expected_shortfall", "haircut"):
            assert wide[account][figure] == row[figure]
        if account in ("one", "pair", "secured"):
            assert 0.5 * row["core"] < wide[account]["core"] < row["core"]


def test_without_a_tail_of_its_own_the_charge_is_the_expected_shortfall() -> None:
    config = {"model": "normal", "risk": {"tail": 0.01}, "scenarios": {"source": "age_weighted"}}
    bare = mx.load_model(parse_config(config, "test"))
    assert bare.charge_tail == bare.tail == 0.01  # type: ignore[attr-defined]


# --- garch -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> mx.Result:
    """Margins of `garch` with parameters that are stated: a search for them costs five seconds for every shape."""
    monkeypatch.setattr(garch, "_fit", stated_fit)
    # A model that no other test has, so that its programs are compiled here and used nowhere else.
    own = configured("garch", collateral={"haircuts": {"CCC": HAIRCUT}}, risk={"maintenance_ratio": 0.81})
    return mx.margin_book(*venue(), own)


def test_a_garch_charges_its_forecast_alone_and_together_and_shares_it_out(stated: mx.Result) -> None:
    """The engine is in float64 here, so rounding is nothing; shares are scaled so that they sum to the charge."""
    for row in stated.margins.filter(pl.col("account_id").is_in(["one", "pair", "secured"])).iter_rows(named=True):
        account = row["account_id"]
        alone = -losses(account)
        joint = -losses(account, collateral=account in COLLATERAL)
        var, es, charge = stated_figures(joint, np.mean(joint**2))
        assert row["var"] == pytest.approx(var, rel=1e-8)
        assert row["expected_shortfall"] == pytest.approx(es, rel=1e-8)
        assert row["core"] == pytest.approx(stated_figures(alone, np.mean(alone**2))[2], rel=1e-8)
        assert row["core"] + row["collateral"] == pytest.approx(charge, rel=1e-8)
        assert row["haircut"] == pytest.approx(HAIRCUT * 0.4 * (account in COLLATERAL), rel=1e-12)
        shares = stated.attribution([account])
        for name in (*PARTS, "initial_margin"):
            given = shares["total" if name == "initial_margin" else name].sum()
            assert given == pytest.approx(row[name], rel=1e-9, abs=1e-15), (account, name)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"engine": {"precision": "float32"}}, ("engine.precision", "float64")),
        ({"scenarios": {"source": "filtered_historical"}}, ("scenarios.source", "past bars in order")),
        ({"scenarios": {"source": "monte_carlo"}}, ("scenarios.source", "past bars in order")),
        ({"scenarios": {"source": "age_weighted"}}, ("scenarios.source", "past bars in order")),
        ({"scenarios": {"grid": {"prices": [-0.1, 0.1]}}}, ("scenarios.stress", "Leave it out")),
        ({"parameters": {"alpha": 0.1}}, ("parameters", "Remove the table")),
    ],
    ids=["float32", "filtered", "draws", "aged", "stress", "parameters"],
)
def test_a_garch_refuses_what_it_cannot_be_fitted_to(keys: dict[str, Any], told: tuple[str, ...]) -> None:
    with pytest.raises(mx.BadInput) as caught:
        configured("garch", **keys)
    assert all(word in str(caught.value) for word in told)


def test_a_garch_refuses_an_engine_in_single_precision() -> None:
    with pytest.raises(mx.BadInput, match='Say "float64"'):
        mx.margin_book(*venue(), margined("garch"), engine=Engine())


# --- By name ---------------------------------------------------------------------------------------------------------


def test_models_of_a_backtest_are_charged_by_one_statistic() -> None:
    found = load_models(BASELINES, tail=0.02, charge_tail=0.1)
    assert list(found) == list(BASELINES)
    for each in found.values():
        assert (each.settings.risk.tail, each.settings.risk.charge_tail) == (0.02, 0.1)
        assert each.settings.scenarios.least_bars == 250
    assert all(each.settings.risk.charge_tail == 0.025 for each in baselines().values())


def test_a_model_with_a_tail_thinner_than_a_scenario_is_refused() -> None:
    with pytest.raises(mx.BadInput, match=r"charge_tail=0\.001"):
        mx.margin_book(*venue(), configured("fixed_legs", risk={"charge_tail": 0.001}))
