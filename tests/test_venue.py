"""What the accounts of a venue add up to, beside their margins: against loops over positions, accounts, scenarios."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
import markets
from reference import tail as tail_twin
from reference import venue as twin
from venue_books import CLOSED, FUND, NEAR, made, positions, settings, told, view

# Both ways through a book: by the kernel's tails, with a stressed stretch too, and tile by tile.
MODELS = ["expected_shortfall", "dynamic", "normal"]


def instruments() -> dict[str, dict[str, Any]]:
    """The tiny venue's contracts as the twin has them: marks stand at the index, and every quote currency at one."""
    rows = markets.instruments().rows(named=True)
    return {
        row["instrument_id"]: {
            **row,
            "price": markets.INDEX[row["underlying"]],
            "units": row["multiplier"] / (markets.INDEX["BTC"] if row["settlement"] == "inverse" else 1),
        }
        for row in rows
    }


def held(result: mx.Result) -> tuple[list[twin.Position], set[int]]:
    """Positions by holder, accounts first and then the isolated ones; and who of them is at risk."""
    table = pl.concat([result.margins, result.isolated], how="diagonal")
    keys = [(row["account_id"], row["instrument_id"]) for row in table.iter_rows(named=True)]
    found = [
        (keys.index((account, name if own is not None else None)), account, name, quantity)
        for account, name, quantity, own in CLOSED
    ]
    risky = table.select(
        ((pl.col("margin_ratio") < NEAR) | (pl.col("call") > 0) | pl.col("initial_margin").is_null()).fill_null(False)
    )
    return found, set(np.flatnonzero(risky.to_series().to_numpy()).tolist())


def test_open_interest_is_that_of_loops_over_positions() -> None:
    found, at_risk = held(told())
    # Some are at risk and some are not, isolated ones among them.
    assert 0 < len(at_risk) < told().margins.height + told().isolated.height
    assert max(at_risk) >= told().margins.height
    wanted = twin.open_interest(found, instruments(), at_risk)
    rows = view(told()).open_interest.rows(named=True)
    assert {(row["underlying"], row["expiry"], row["kind"]) for row in rows} == set(wanted)
    for row in rows:
        for name, amount in wanted[row["underlying"], row["expiry"], row["kind"]].items():
            assert row[name] == pytest.approx(amount, rel=1e-12, abs=1e-9), (row["underlying"], name)
        assert (row["unvalued"], row["without_greeks"], row["gamma"], row["vega"]) == (0, 0, 0, 0)
        gross = row["open_interest"] + row["short_interest"]
        assert row["at_risk_share"] == pytest.approx(row["at_risk"] / gross)


def test_the_sides_of_a_closed_venue_are_equal_and_those_of_a_part_of_one_are_not() -> None:
    notes = view(told()).notes
    assert notes["closed"]
    assert notes["open_interest"] == pytest.approx(notes["short_interest"], rel=1e-12)
    assert notes["imbalance"] == 0
    part = positions([row for row in CLOSED if row[:2] != ("short", "ETH-FUT")])
    open_book = view(markets.margin(markets.tables(positions=part), settings()))
    assert not open_book.notes["closed"]
    assert open_book.notes["imbalance"] == pytest.approx(1_000 * 0.01 * 3_000)
    assert open_book.notes["short_interest"] - open_book.notes["open_interest"] == pytest.approx(30_000)


def test_concentration_is_that_of_loops_and_isolated_positions_are_their_accounts() -> None:
    found, _ = held(told())
    table = {row["underlying"]: row for row in view(told()).underlyings.iter_rows(named=True)}
    for underlying in ("BTC", "ETH", "DOGE"):
        for side in ("long", "short"):
            amounts = twin.by_account(found, instruments(), underlying, side)
            wanted = twin.shares(amounts)
            row = table[underlying]
            assert row[f"herfindahl_{side}"] == pytest.approx(wanted["herfindahl"])
            assert row[f"largest_share_{side}"] == pytest.approx(wanted["largest_share"])
            assert row[f"accounts_{side}"] == len(amounts)
    whole = view(told()).notes["concentration"]
    amounts = twin.by_account(found, instruments(), None, "gross")
    assert whole["herfindahl"] == pytest.approx(twin.shares(amounts)["herfindahl"])
    assert amounts[whole["largest"]] == max(amounts.values())


def losses_by_holder(result: mx.Result) -> np.ndarray:
    """Loss of each holder's positions and collateral, by loops over the cube."""
    tiles: Any = result.ready.tiles
    prepared = tiles._prepared if hasattr(tiles, "_prepared") else tiles._placed[0][1]
    cube, exposures = np.asarray(prepared.cube, float), result._exposures
    losses = np.zeros((len(exposures.equity), cube.shape[1]))
    for part in (exposures.positions, exposures.collateral):
        for owner, row, amount in zip(part.owners, part.columns, part.amounts, strict=True):
            losses[owner] -= amount * cube[row]
    return losses


@pytest.mark.parametrize("model", MODELS)
def test_losses_beyond_equity_and_beyond_margins_are_those_of_loops(model: str) -> None:
    result = told(model)
    found, losses = view(result), losses_by_holder(result)
    table = pl.concat([result.margins, result.isolated], how="diagonal")
    equity, initial = (table[name].to_numpy() for name in ("equity", "initial_margin"))
    holds = result._exposures.positions.counts > 0
    closing = table["haircut"].to_numpy()
    assert closing.max() > 0
    kept = np.where(holds, np.minimum(equity, initial), equity) - closing
    # The pass is in float32: each loss and margin is rounded, at most by a few parts in 10^7 of its terms.
    rounding = 1e-6 * (np.abs(losses).max(axis=1) + np.abs(equity) + initial).sum()
    assert found.losses["beyond_equity"].to_numpy() == pytest.approx(result.uncovered, abs=0)
    for name, amounts in (("beyond_equity", equity - closing), ("beyond_margins", kept)):
        wanted = twin.loss_beyond(losses, amounts)
        assert wanted.max() > 10 * rounding
        assert found.losses[name].to_numpy() == pytest.approx(wanted, abs=rounding)
    assert (found.losses["beyond_margins"] >= found.losses["beyond_equity"] - rounding).all()
    weights = np.asarray(result.scenarios.weights, float)
    for name, figures in (("beyond_equity", "loss_beyond_equity"), ("beyond_margins", "loss_beyond_margins")):
        own, figure = found.losses[name].to_numpy(), found.notes[figures]
        assert figure["mean"] == pytest.approx(own @ weights)
        assert figure["quantiles"]["0.95"] == tail_twin.value_at_risk(own, weights, tail=0.05)
        assert figure["tail_mean"] == pytest.approx(tail_twin.expected_shortfall(own, weights, tail=0.01))
        assert figure["worst"] == own.max()
    debt = found.notes["bad_debt"]
    own = found.losses["beyond_equity"].to_numpy()
    assert debt["expected"] == pytest.approx(result.manifest["uncovered_loss"]["mean"], rel=1e-12)
    assert debt["at_tail"] == tail_twin.value_at_risk(own, weights, tail=0.01)
    assert debt["exhaustion_probability"] == tail_twin.exceedance_probability(own, weights, FUND)
    left = np.maximum(own - FUND, 0)
    assert debt["beyond_fund"]["tail_mean"] == pytest.approx(tail_twin.expected_shortfall(left, weights, tail=0.01))
    assert debt["complete"]


@pytest.mark.parametrize("model", MODELS)
def test_the_view_changes_no_margin_by_one_bit(model: str) -> None:
    plain = markets.margin(markets.tables(positions=positions()), settings(model, report=False))
    assert plain.venue is None
    assert plain.manifest["venue"] == {}
    assert plain.margins.equals(told(model).margins)
    assert plain.isolated.equals(told(model).isolated)
    assert (plain.uncovered == told(model).uncovered).all()


def test_losses_beyond_margins_may_be_left_out() -> None:
    found = view(markets.margin(markets.tables(positions=positions()), settings(beyond_margins=False)))
    assert found.notes["loss_beyond_margins"] is None
    assert found.losses["beyond_margins"].is_null().all()
    assert found.notes["score"]["components"]["beyond_margins"]["value"] == 0
    assert found.notes["bad_debt"] == view(told()).notes["bad_debt"]


def test_bands_hold_every_holder_and_all_open_interest_once() -> None:
    bands, notes = view(told()).notes["bands"], view(told()).notes
    gross = notes["open_interest"] + notes["short_interest"]
    assert sum(band["open_interest"] for band in bands) == pytest.approx(gross)
    assert sum(band["share"] for band in bands) == pytest.approx(1)
    assert sum(band["holders"] for band in bands) == told().margins.height + told().isolated.height
    ratios = pl.concat([told().margins["margin_ratio"], told().isolated["margin_ratio"]]).drop_nulls()
    for band in bands:
        if band["who"] is None:
            low, high = (band["from"] or -np.inf) if band["from"] is None else band["from"], band["to"]
            inside = (ratios >= low) & (ratios < (np.inf if high is None else high))
            assert band["holders"] == inside.sum()


# ---- options, on a venue made up ----


def test_a_synthetic_venue_is_closed_and_its_greeks_are_those_of_its_options() -> None:
    tables, result = made()
    found = view(result)
    assert found.notes["closed"]
    interest = found.open_interest
    assert {"perpetual", "option"} <= set(interest["kind"])
    option_rows = interest.filter(kind="option")
    assert option_rows.height == 2
    assert (option_rows["vega"] > 0).all()
    assert (option_rows["gamma"] > 0).all()
    book = tables["positions"].join(tables["instruments"], on="instrument_id").filter(pl.col("strike").is_not_null())
    terms = result.options.select("instrument_id", "delta", "gamma", "vega", "theta")
    for row in option_rows.iter_rows(named=True):
        own = book.filter(pl.col("expiry") == row["expiry"], pl.col("quantity") > 0).join(terms, on="instrument_id")
        size = own["quantity"] * own["multiplier"]
        assert row["delta"] == pytest.approx((size * own["delta"]).sum())
        # Quoted in a currency worth one: vega, theta and price need no other.
        assert row["vega"] == pytest.approx((size * own["vega"]).sum())
        assert row["theta"] == pytest.approx((size * own["theta"]).sum())
        assert row["gamma"] == pytest.approx((size * own["gamma"]).sum() * row["price"] / 100)
        assert row["long_units"] == pytest.approx(size.sum())


def test_over_all_of_a_closed_venue_the_net_greeks_are_zero() -> None:
    _, result = made()
    interest = view(result).open_interest
    everyone = pl.concat([result.margins, result.isolated], how="diagonal")
    holds = result._exposures.positions.counts > 0
    owing = everyone["margin_ratio"].is_not_null().to_numpy() | (everyone["call"] > 0).to_numpy()
    assert owing[holds].all()
    for name in ("delta", "gamma", "vega", "theta"):
        # What cancels is a sum of a hundred float64 products.
        size = interest[name].abs().sum()
        assert interest[f"net_{name}"].abs().max() <= 1e-12 * size * len(holds)  # type: ignore[operator]
        assert interest.filter(kind="option")[name].abs().min() > 0  # type: ignore[operator]


def test_the_open_interest_that_the_table_states_is_the_books_own() -> None:
    """That of a synthetic venue leaves its options out."""
    tables, result = made()
    stated = dict(tables["underlyings"].select("underlying", "open_interest").iter_rows())
    futures = view(result).open_interest.filter(pl.col("kind") != "option")
    for name, interest in futures.group_by("underlying").agg(pl.col("open_interest").sum()).iter_rows():
        # The table has marks and eight digits, and marks of futures stand a few per cent apart from the index.
        assert interest == pytest.approx(stated[name], rel=0.05)


# ---- margins that follow open interest ----


def test_margins_that_follow_open_interest_are_the_fraction_of_net_deltas() -> None:
    given = markets.tables(
        positions=positions(), underlyings=markets.underlyings().with_columns(open_interest=pl.lit(2e5))
    )
    found = view(markets.margin(given, settings(lower=1e5, upper=3e5, caps={"ETH": [1e6, 2e6]}, base_fraction=0.1)))
    rows = {row["underlying"]: row for row in found.underlyings.iter_rows(named=True)}
    # The table's open interest is more than the book's: half of the way from a tenth to one, but for ETH and its caps.
    assert rows["BTC"]["margin_fraction"] == pytest.approx(0.55)
    assert rows["ETH"]["margin_fraction"] == 0.1
    # Net deltas in BTC: hedged and long 80,000 each, inverse and mixed 40,000 each; spot does not count.
    assert rows["BTC"]["scaled_margin"] == pytest.approx(0.55 * 240_000)
    assert rows["BTC"]["base_margin"] == pytest.approx(0.1 * 240_000)
    # The spread nets to nothing in ETH; mixed and short are 30,000 each.
    assert rows["ETH"]["scaled_margin"] == pytest.approx(0.1 * 60_000)
    asks = found.notes["open_interest_margin"]
    assert asks["asked"] == pytest.approx(sum(row["scaled_margin"] for row in rows.values()))
    assert asks["initial_margin"] == pytest.approx(
        told().margins["initial_margin"].sum() + told().isolated["initial_margin"].sum()
    )
    assert view(told()).notes["open_interest_margin"] == {}


# ---- what is not known ----


def test_open_interest_of_accounts_without_a_margin_counts_and_no_loss_falls() -> None:
    """`long` holds something without a price: it has no margin, and all that it holds is at risk and may be lost."""
    rows = [*CLOSED, ("long", "OIL-FUT", 3.0, None), ("short", "OIL-FUT", -3.0, None)]
    quotes = markets.quotes()
    tables = markets.tables(positions=positions(rows))
    whole = view(markets.margin(tables, settings()))
    less = markets.tables(positions=positions(rows), quotes=quotes.filter(pl.col("instrument_id") != "OIL-FUT"))
    result = markets.margin(less, settings(), on_error="quarantine")
    assert result.margins.filter(pl.col("initial_margin").is_null())["account_id"].to_list() == ["long", "short"]
    found = view(result)
    # The isolated positions of both are priced and margined; what they hold across is not.
    unknown = found.notes["not_known"]
    assert unknown["holders_without_margin"] == 2
    assert unknown["rows_set_aside"] == 2
    # 80,000 in BTC, 30,000 in ETH, and two sides of 3 x 10 barrels at the index.
    assert unknown["gross_without_margin"] == pytest.approx(80_000 + 30_000 + 2 * 2_100)
    assert unknown["counted_as_loss"] == unknown["gross_without_margin"]
    assert found.notes["open_interest"] == pytest.approx(whole.notes["open_interest"])
    assert found.notes["closed"]
    for name in ("expected", "at_tail", "exhaustion_probability"):
        assert found.notes["bad_debt"][name] >= whole.notes["bad_debt"][name]
    assert (found.losses["beyond_margins"] >= whole.losses["beyond_margins"]).all()
    assert found.notes["at_risk"]["share"] > whole.notes["at_risk"]["share"]
    assert found.score > whole.score


def test_contracts_that_nobody_can_value_are_counted_and_told() -> None:
    rows = [*CLOSED, ("long", "OIL-FUT", 3.0, None)]
    less = markets.tables(
        positions=positions(rows),
        quotes=markets.quotes().filter(pl.col("instrument_id") != "OIL-FUT"),
        underlyings=markets.underlyings().filter(pl.col("underlying") != "OIL"),
    )
    found = view(markets.margin(less, settings(), on_error="quarantine"))
    row = found.open_interest.row(by_predicate=pl.col("underlying") == "OIL", named=True)
    assert (row["long_contracts"], row["unvalued"], row["open_interest"]) == (3.0, 3.0, 0.0)
    assert found.notes["not_known"]["contracts_without_price"] == 3.0
    assert not found.notes["bad_debt"]["complete"]
    assert not found.notes["closed"]


def test_a_time_of_expiry_is_utc() -> None:
    expiries = view(told()).open_interest.filter(kind="future")["expiry"]
    assert expiries.to_list() == [datetime(2026, 6, 26, 8, tzinfo=UTC)]
