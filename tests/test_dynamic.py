"""The parts of the dynamic margin: each against a loop that masks and sums, what they promise, and their shares."""

from functools import cache
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.config import Config, parse_config
from marginax.engine.margin_book import _prepare
from marginax.engine.tiles import build, cut
from marginax.exposures import Exposures, expose
from marginax.models.dynamic import Dynamic
from marginax.models.dynamic_charges import DynamicPrepared
from marginax.models.runs import book_groups
from marginax.problems import BadInput
from marginax.sections import Engine
from markets import balances, book_of, margin, plus, positions, row, tables
from reference import dynamic as twin
from reference.samples import rounding

DOUBLE = Engine(precision="float64")
ALL_ON: dict[str, Any] = {
    "model": "dynamic",
    "risk": {"tail": 0.02, "charge_tail": 0.05},
    "scenarios": {"window": 200, "volatility_floor": 0.4},
    "filter": {"kind": "two_speed", "bound": 4.0},
    "correlation": {"follow": True},
    "stress_period": {"weight": 0.25, "bars": 60},
    "dependence": {"share": 0.1},
    "correlation_break": {"multiplier": 1.5, "windows": 4, "least": 0.01, "most": 0.3},
    "procyclicality": {"buffer": 0.25, "floor_years": 10.0, "rise_limit": 0.02, "fall_limit": 0.01},
    "collateral": {
        "haircuts": {"BTC": 0.02, "ETH": 0.05, "USDT": 0.01},
        "limits": {"BTC": 60_000.0},
        "sizes": {"USDT": 8_000.0, "BTC": 20_000.0},
        "concentration": 0.1,
        "wrong_way": 0.2,
    },
}
NUMBERS = twin.Numbers(
    stress=0.25, share=0.1, multiplier=1.5, windows=4, least=0.01, most=0.3, wrong_way=0.2, concentration=0.1
)
PARTS = (
    "core", "stress", "collateral", "dependence", "correlation_break", "wrong_way", "procyclicality", "haircut",
    "concentration", "floor",
)  # fmt: skip


def configured(**changed: Any) -> Config:
    return parse_config({**ALL_ON, **changed}, "test")


def holdings() -> dict[str, pl.DataFrame]:
    """The tiny venue, with accounts that hold several things in one underlying beside collateral of the same."""
    held = positions()
    for entry in (
        ("hedged", "BTC-INV", -100.0), ("maker", "BTC-SPOT", -2.0), ("maker", "BTC-FUT", 1_500.0),
        ("maker", "ETH-PERP", -900.0), ("maker", "DOGE-PERP", 300.0),
        ("coin", "BTC-PERP", -700.0),
    ):  # fmt: skip
        held = plus(held, *entry)
    money = balances()
    # Some of everybody's collateral moves, so that tiles have few shapes.
    for entry in (
        ("long", "USDT", 100.0), ("short", "USDT", 100.0), ("hedged", "ETH", 4.0), ("maker", "BTC", 1.0),
        ("maker", "USDT", 30_000.0), ("coin", "BTC", 0.7), ("coin", "ETH", -3.0),
    ):  # fmt: skip
        money = plus(money, *entry)
    return tables(positions=held.sort("account_id"), balances=money.sort("account_id"))


@cache
def run(name: str = "all", precision: str = "float64") -> mx.Result:
    return margin(holdings(), CONFIGS[name](), engine=Engine(precision=precision))


CONFIGS = {"all": configured, "independent": lambda: configured(dependence={"share": 0.4, "against": "independent"})}


@cache
def prepared() -> tuple[Dynamic, DynamicPrepared, Exposures]:
    given = holdings()
    book = mx.read_book(**{name: given[name] for name in ("instruments", "positions", "balances")})
    market = mx.read_market(**{name: given[name] for name in ("quotes", "underlyings", "history")})
    model = mx.load_model(configured())
    assert isinstance(model, Dynamic)
    with jax.enable_x64(True):
        history = model.factors(market, book.instruments)
        exposures = expose(book, market, history)
        state, draws = model.observe(history), model.draw(7, history)
        made, _ = _prepare(model, exposures.instruments, exposures.market, state, draws)
        return model, jax.tree.map(np.asarray, made), exposures


def test_every_part_is_what_a_loop_over_masked_underlyings_finds() -> None:
    _, made, exposures = prepared()
    terms = np.stack([made.terms.price, made.terms.haircut, made.terms.limit, made.terms.size], axis=1)
    multipliers = {int(group): float(made.scale[k]) for k, group in enumerate(exposures.groups)}
    world = twin.World(
        cube=made.cube,
        weights=made.weights[: made.main],
        stressed=made.stressed,
        groups=exposures.groups,
        multipliers=np.array([multipliers[group] for group in sorted(multipliers)]),
        terms=terms,
        tail=0.05,
    )
    margins = run().margins
    seen = dict.fromkeys(PARTS, 0.0)
    for k, account in enumerate(margins["account_id"]):
        held = [
            [(int(part.columns[e]), float(part.amounts[e]))
             for e in range(part.starts[k], part.starts[k] + part.counts[k])]
            for part in (exposures.positions, exposures.collateral)
        ]  # fmt: skip
        wanted = twin.parts(held[0], held[1], world, NUMBERS)
        for name in PARTS:
            # Gross notional is below a million and cells below one; float64 sums of a few hundred of them.
            assert row(run(), account)[name] == pytest.approx(wanted[name], abs=1e-7), (account, name)
            seen[name] += abs(wanted[name])
    # Expected shortfall is sub-additive, so a floor is rounding at most.
    assert min(size for name, size in seen.items() if name != "floor") > 1, seen


def test_the_requirement_is_the_sum_of_the_parts_and_maintenance_keeps_the_cost_of_closing_whole() -> None:
    for account in run().margins["account_id"]:
        found = row(run(), account)
        assert found["initial_margin"] == pytest.approx(sum(found[name] for name in PARTS), abs=1e-7)
        closing = found["haircut"] + found["concentration"]
        wanted = 0.8 * (found["initial_margin"] - closing) + closing
        assert found["maintenance_margin"] == pytest.approx(wanted, abs=1e-7)


def test_what_is_switched_off_is_no_part_and_with_all_off_it_is_the_plain_model() -> None:
    plain = parse_config({"risk": ALL_ON["risk"], "scenarios": ALL_ON["scenarios"]}, "test")
    off = parse_config({"model": "dynamic", "risk": ALL_ON["risk"], "scenarios": ALL_ON["scenarios"]}, "test")
    one, other = (margin(holdings(), config, engine=DOUBLE).margins.drop("model") for config in (plain, off))
    assert one.columns == other.columns
    assert not set(other.columns) & {"stress", "dependence", "procyclicality", "wrong_way"}
    for name in ("initial_margin", "maintenance_margin", "var", "expected_shortfall", "core", "collateral"):
        np.testing.assert_allclose(other[name].to_numpy(), one[name].to_numpy(), rtol=1e-12, atol=1e-9)


def test_risk_figures_know_none_of_the_tools() -> None:
    bare = {
        key: value for key, value in ALL_ON.items() if key in ("model", "risk", "scenarios", "filter", "correlation")
    }
    one = margin(holdings(), parse_config(bare, "test"), engine=DOUBLE).margins
    for name in ("var", "expected_shortfall", "equity", "core"):
        np.testing.assert_allclose(run().margins[name].to_numpy(), one[name].to_numpy(), rtol=1e-12, atol=1e-9)
    # What closing costs is lost too.
    assert (run().margins["stress_score"] >= one["stress_score"]).all()


class Seen(Dynamic):
    """The same model, tile by tile."""

    @property
    def asks_tails(self) -> bool:
        return False


@pytest.mark.parametrize(("name", "precision"), [("all", "float64"), ("independent", "float32")])
def test_margins_by_tails_are_those_of_losses_tile_by_tile(name: str, precision: str) -> None:
    """The kernel's answers and tiles of losses go through one set of formulas."""
    asked = run(name, precision)
    seen = margin(
        holdings(), Seen.from_config(CONFIGS[name](), name="dynamic"), engine=Engine(precision=precision)
    )  # fmt: skip
    assert asked.manifest["kernel"] != seen.manifest["kernel"] == "JAX, tile by tile"
    near = rounding(np.dtype(precision), 8, 200_000.0)
    for one, other in zip(asked.margins, seen.margins, strict=True):
        if one.dtype == pl.Float64 and one.name not in ("margin_ratio", "stress_score"):
            # As in single precision against double: a few shortfalls, each off by the rounding of gross notional.
            np.testing.assert_allclose(one.to_numpy(), other.to_numpy(), atol=12 * near, err_msg=one.name)
        elif one.dtype != pl.Float64:
            assert one.equals(other), one.name
    np.testing.assert_allclose(asked.margins["stress_score"], seen.margins["stress_score"], atol=1 / 200 + 1e-6)
    np.testing.assert_allclose(asked.uncovered, seen.uncovered, atol=len(asked.margins) * near)


def test_accounts_with_orders_see_losses_and_the_others_change_no_bit_for_it() -> None:
    given = holdings()
    orders = pl.DataFrame({"account_id": ["maker"], "instrument_id": ["BTC-PERP"], "quantity": [900.0]})
    stated = configured(orders={"cover": True})
    ordered, still = (margin(each, stated).margins for each in ({**given, "orders": orders}, given))
    others = pl.col("account_id") != "maker"
    assert ordered.filter(others).equals(still.filter(others))
    one, other = (each.filter(~others).row(0, named=True) for each in (ordered, still))
    assert one["orders"] > 0 == other["orders"]
    near = rounding(np.dtype(np.float32), 8, 200_000.0)
    assert one["maintenance_margin"] == pytest.approx(other["maintenance_margin"], abs=12 * near)


def test_a_window_without_weight_breaks_no_correlation() -> None:
    """On given scenarios, of which those in the middle weigh nothing: both ways through the kernel and tile by tile."""
    shocks = 0.05 * np.random.default_rng(3).standard_normal((100, 5))
    weights = np.where(np.arange(100) // 25 == 2, 0.0, 1 / 75)
    labels = tuple(f"scenario {k}" for k in range(100))
    draws = mx.ScenarioSet(("BTC", "ETH", "DOGE", "USDT", "OIL"), shocks, weights, labels)
    one, other = (
        margin(holdings(), kind.from_config(configured(), name="dynamic").with_scenarios(draws), engine=DOUBLE).margins
        for kind in (Dynamic, Seen)
    )
    assert one["correlation_break"].sum() > 0
    for name in ("core", "correlation_break", "dependence", "initial_margin"):
        np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=1e-12, atol=1e-8)


def test_dependence_lies_between_none_of_the_benefit_and_all_of_it() -> None:
    """Comonotone underlyings are the worst there is; independent ones never worse than that."""
    worst, apart = run(), run("independent")
    for account in worst.margins["account_id"]:
        comonotone, independent = row(worst, account)["dependence"] / 0.1, row(apart, account)["dependence"] / 0.4
        assert 0 <= independent <= comonotone + 1e-7, account
    # Long and short in coins that move together: independence takes the hedge away.
    assert row(apart, "mixed")["dependence"] > 0
    # All that this one has is in one coin.
    assert row(worst, "inverse")["dependence"] == pytest.approx(0, abs=1e-8)


def test_single_precision_says_the_same_to_its_own_rounding() -> None:
    gross = 200_000.0
    near = rounding(np.dtype(np.float32), 8, gross)
    for name in PARTS:
        one, other = (run(precision=each).margins[name].to_numpy() for each in ("float32", "float64"))
        # A charge is a difference of a few shortfalls, each off by the rounding of gross notional.
        np.testing.assert_allclose(one, other, atol=4 * near)


def test_shares_sum_to_every_part_and_doubling_an_account_doubles_them() -> None:
    shares = run().attribution(["coin", "maker"])
    summed = shares.group_by("account_id").agg(pl.col(*PARTS, "total").sum()).sort("account_id")
    margins = run().margins.filter(pl.col("account_id").is_in(summed["account_id"].implode())).sort("account_id")
    for name in PARTS:
        np.testing.assert_allclose(summed[name].to_numpy(), margins[name].to_numpy(), atol=1e-6)
    np.testing.assert_allclose(summed["total"].to_numpy(), margins["initial_margin"].to_numpy(), atol=1e-6)
    given = holdings()
    twice = {
        **given,
        "positions": given["positions"].with_columns(pl.col("quantity") * 2),
        "balances": given["balances"].with_columns(pl.col("amount") * 2),
    }
    doubled = margin(twice, configured(), engine=DOUBLE).margins.sort("account_id")
    once = run().margins.sort("account_id")
    for name in set(PARTS) - {"concentration"}:
        np.testing.assert_allclose(doubled[name].to_numpy(), 2 * once[name].to_numpy(), rtol=1e-10, atol=1e-7)


def test_neighbours_and_tiles_change_no_bit() -> None:
    given = holdings()
    few = ["coin", "maker"]
    alone = {
        **given,
        **{name: given[name].filter(pl.col("account_id").is_in(few)) for name in ("positions", "balances")},
    }
    one = margin(alone, configured(), engine=Engine(tile_rows=64, streams=1)).margins
    many = run(precision="float32").margins.filter(pl.col("account_id").is_in(few))
    for name in (*PARTS, "initial_margin", "var", "stress_score"):
        assert one[name].to_list() == many[name].to_list(), name


def test_groups_of_a_tile_are_two_or_more_entries_of_one_underlying_collateral_included() -> None:
    _, _, exposures = prepared()
    accounts = np.arange(len(exposures.equity))
    booked = book_groups(exposures.positions, exposures.collateral, exposures.groups)
    for part in cut(exposures, accounts, tile_rows=64, scenarios=200):
        runs = build(exposures, part, np.float64).runs
        for k, account in enumerate(part.accounts):
            entries: dict[int, list[str]] = {}
            for kind, held in (("position", exposures.positions), ("asset", exposures.collateral)):
                for e in range(held.starts[account], held.starts[account] + held.counts[account]):
                    entries.setdefault(int(exposures.groups[held.columns[e]]), []).append(kind)
            together = [kinds for kinds in entries.values() if len(kinds) > 1]
            mine = np.flatnonzero((runs.owner == k) & (runs.length > 0))
            told = sorted((int(runs.length[g]), int(runs.asset[g] >= 0)) for g in mine)
            assert told == sorted((kinds.count("position"), kinds.count("asset")) for kinds in together)
            assert runs.count[k] == len(together)
            own = range(booked.starts[account], booked.starts[account + 1])
            assert [int(booked.held.counts[g]) for g in own] == [
                int(runs.length[g]) + int(runs.asset[g] >= 0) for g in mine
            ]
            single = sum(len(kinds) for kinds in entries.values() if len(kinds) == 1)
            positions, assets = exposures.positions.counts[account], exposures.collateral.counts[account]
            assert runs.alone[k, :positions].sum() + runs.asset_alone[k, :assets].sum() == single


def test_an_account_without_positions_owes_nothing_whatever_it_owns() -> None:
    assert row(run(), "saver")["initial_margin"] == row(run(), "debtor")["initial_margin"] == 0


def test_independence_needs_scenarios_of_equal_weight() -> None:
    wanted = {"dependence": {"share": 0.1, "against": "independent"}, "scenarios": {"source": "monte_carlo"}}
    with pytest.raises(BadInput, match=r"dependence\.against.*monte_carlo.*unequal weights"):
        mx.load_model(parse_config({**ALL_ON, **wanted}, "test"))


def test_on_scenarios_of_ones_own_nothing_follows_a_market() -> None:
    model = mx.load_model(configured())
    assert isinstance(model, Dynamic)
    names = ("BTC", "ETH", "DOGE", "USDT", "OIL")
    shocks = 0.05 * np.random.default_rng(3).standard_normal((100, 5))
    labels = tuple(f"scenario {k}" for k in range(100))
    given = model.with_scenarios(mx.ScenarioSet(names, shocks, np.full(100, 0.01), labels))
    found = margin(holdings(), given, engine=DOUBLE)
    assert {"dependence", "concentration"} <= set(found.margins.columns)
    assert not {"stress", "procyclicality"} & set(found.margins.columns)
    assert found.excepted == 0


def test_a_class_of_assets_has_a_haircut_of_its_own() -> None:
    given = holdings()
    classes = {"default": "coins", "names": {"USDT": "money"},
               "parameters": {"coins": {"haircut": 0.1}, "money": {"haircut": 0.0}}}  # fmt: skip
    stated = configured(classes=classes, collateral={"haircuts": {"ETH": 0.5}})
    found = margin(given, stated, engine=DOUBLE)
    assert row(found, "inverse")["haircut"] == pytest.approx(0.1 * 80_000)
    assert row(found, "hedged")["haircut"] == pytest.approx(0.5 * 4 * 3_000)
    assert row(found, "spread")["haircut"] == 0


def test_more_than_a_book_of_nothing_is_needed_for_a_margin() -> None:
    only = {**holdings(), "positions": book_of(), "balances": balances().clear()}
    assert margin(only, configured()).margins.height == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dependence": {"share": 0.1}}, "dependence: is set, and `expected_shortfall` does not read it"),
        ({"collateral": {"limits": {"BTC": 1.0}}}, r"collateral\.limits: is set"),
        ({"scenarios": {"source": "historical"}, "correlation": {"follow": True}}, r"correlation\.follow: is true"),
        (
            {"model": "dynamic", "filter": {"alpha": 0.3, "beta": 0.7}},
            r"`alpha` \+ `beta` is 1 and the variance runs away",
        ),
        ({"model": "dynamic", "filter": {"daily": 0.9, "weekly": 0.2}}, "keep the sum at 1 or below"),
        ({"model": "dynamic", "stress_period": {"weight": 1.5}}, r"stress_period\.weight"),
        ({"model": "dynamic", "correlation_break": {"least": 0.5, "most": 0.1}}, "`least` 0.5 is above `most` 0.1"),
        ({"model": "dynamic", "correlation": {"shrinkage": 0.0}}, r"correlation\.shrinkage"),
        ({"model": "dynamic", "procyclicality": {"fall_limit": 1.0}}, r"procyclicality\.fall_limit"),
        (
            {"model": "dynamic", "collateral": {"limits": {"BTC": -1.0}}},
            r"limits\.BTC.*greater than or equal to 0",
        ),
        (
            {"classes": {"names": {"BTC": "majors"}, "parameters": {"coins": {}}}},
            r"BTC is placed in `majors`, which has no table",
        ),
        (
            {
                "filter": {"kind": "garch", "alpha": 0.1, "beta": 0.8},
                "classes": {"parameters": {"coins": {"beta": 0.95}}},
            },
            "n the class `coins` `alpha` \\+ `beta` is 1.05",
        ),
    ],
)
def test_numbers_outside_their_range_and_parts_that_a_model_does_not_know_are_refused(
    values: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        mx.load_model(parse_config(values, "test"))
