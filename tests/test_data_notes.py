"""What a run says of its data and its settings, and what it refuses to run with."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import marginax as mx
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.synthetic import venue

VENUE = venue(seed=3, accounts=6, underlyings=4, instruments=12, bars=301).tables


def book(**changed: pl.DataFrame) -> mx.Book:
    return mx.read_book(**{name: {**VENUE, **changed}[name] for name in ("instruments", "positions", "balances")})


def market(as_of: str | None = None, **changed: pl.DataFrame) -> mx.Market:
    names = ("quotes", "underlyings", "history")
    return mx.read_market(**{name: {**VENUE, **changed}[name] for name in names}, as_of=as_of)


def notes(given: mx.Market) -> dict[str, Any]:
    return mx.margin_book(book(), given).manifest["data"]


def test_a_clean_market_has_no_notes() -> None:
    assert notes(market()) == {
        "history_of_nothing": {},
        "prices_after_as_of": 0,
        "marks_far_from_index": [],
        "marks_apart_from_index": {},
        "prices_refused": [],
        "forwards_of_nothing": [],
        "balances_given_twice": [],
    }


def test_a_balance_that_is_there_twice_is_summed_and_named() -> None:
    first = VENUE["balances"].head(1)
    given = book(balances=pl.concat([VENUE["balances"], first]))
    result = mx.margin_book(given, market())
    assert result.manifest["data"]["balances_given_twice"] == first["account_id"].to_list()


def test_history_of_no_underlying_is_named_and_counted() -> None:
    stray = VENUE["history"].filter(pl.col("factor") == "price").head(7).with_columns(underlying=pl.lit("BTX"))
    assert notes(market(history=pl.concat([VENUE["history"], stray])))["history_of_nothing"] == {"BTX": 7}


def test_a_mark_in_another_unit_is_named() -> None:
    odd = VENUE["quotes"]["instrument_id"][0]
    mark = pl.when(pl.col("instrument_id") == odd).then(1_000 * pl.col("mark_price")).otherwise("mark_price")
    quotes = VENUE["quotes"].with_columns(mark_price=mark).drop("bid", "ask")
    assert notes(market(quotes=quotes))["marks_far_from_index"] == [odd]


def test_prices_later_than_the_margin_are_counted() -> None:
    later = notes(market(as_of="2025-12-30"))["prices_after_as_of"]
    assert later == VENUE["quotes"].height + VENUE["underlyings"].height


def test_an_index_in_another_unit_than_its_history_is_named() -> None:
    price = pl.when(pl.col("underlying") == "ETH").then(1_000 * pl.col("price")).otherwise("price")
    result = mx.margin_book(book(), market(history=VENUE["history"].with_columns(price=price)))
    assert result.manifest["scenarios"]["index_far_from_history"] == ["ETH"]


def test_a_haircut_on_what_is_no_underlying_is_named() -> None:
    settings = mx.Config.model_validate({"collateral": {"haircuts": {"BTX": 0.1, "BTC": 0.1}}})
    result = mx.margin_book(book(), market(), settings)
    assert result.manifest["scenarios"]["haircuts_of_nothing"] == ["BTX"]


@pytest.mark.parametrize("stated", [{"currency": "EUR"}, {"as_of": datetime(2025, 6, 1, tzinfo=UTC)}])
def test_a_configuration_that_contradicts_the_market_is_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(mx.BadInput, match=f"run.{next(iter(stated))}"):
        mx.margin_book(book(), market(), mx.Config.model_validate({"run": stated}))


def test_the_seed_of_the_configuration_holds_unless_another_is_given() -> None:
    settings = mx.Config.model_validate({"run": {"seed": 11}})
    assert mx.margin_book(book(), market(), settings).manifest["seed"] == 11
    assert mx.margin_book(book(), market(), settings, seed=5).manifest["seed"] == 5


def test_parameters_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(mx.BadInput, match="parameters"):
        mx.load_model(mx.Config.model_validate({"parameters": {"kappa": 1.0}}))


def test_ages_so_short_that_one_scenario_is_the_tail_are_refused() -> None:
    aged = {"scenarios": {"source": "age_weighted", "age_half_life_days": 3.0}}
    with pytest.raises(mx.BadInput, match="whatever `tail` says"):
        mx.margin_book(book(), market(), mx.Config.model_validate(aged))


def test_an_account_without_a_margin_is_not_explained_but_its_reason_is() -> None:
    lost = VENUE["positions"]["account_id"][0]
    odd = VENUE["positions"].head(1).with_columns(instrument_id=pl.lit("NO-SUCH"))
    positions = pl.concat([VENUE["positions"], odd])
    tables = {"instruments": VENUE["instruments"], "positions": positions, "balances": VENUE["balances"]}
    result = mx.margin_book(mx.read_book(**tables, on_error="quarantine"), market(), on_error="quarantine")
    with pytest.raises(ValueError, match=f"{lost} has no margin: incomplete"):
        result.explain(lost)


def test_a_source_gives_the_set_that_accounts_are_margined_under() -> None:
    model, given = mx.load_model(), market()
    result = mx.margin_book(book(), given, model, seed=5)
    alone = model.source.scenario_set(model.factors(given, book().instruments), seed=5)  # type: ignore[attr-defined]
    assert alone.labels == result.scenarios.labels
    # One program or several: XLA may round the same float64 sums in another order.
    np.testing.assert_allclose(alone.shocks, result.scenarios.shocks, rtol=1e-12, atol=1e-14)
    joined = mx.join([alone, result.scenarios], [0.25, 0.75])
    assert joined.weights[: len(alone)].sum() == pytest.approx(0.25, rel=1e-12)


def test_results_into_a_file_are_bad_input(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert run(["demo", "--accounts", "1", "--out", str(tmp_path / "taken" / "x")]) != Exit.SUCCESS
    assert run(["init", str(tmp_path / "start")]) == Exit.SUCCESS
    names = ("instruments", "positions", "balances", "quotes", "underlyings", "history")
    words = [word for name in names for word in (f"--{name}", str(tmp_path / "start" / f"{name}.csv"))]
    assert run(["margin", *words, "--out", str(tmp_path / "taken")]) == Exit.BAD_INPUT
    assert run(["margin", *words, "--out", str(tmp_path / "out"), "--seed", "-1"]) == Exit.BAD_INPUT
