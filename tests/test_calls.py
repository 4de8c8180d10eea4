"""Calls: least transfers and whole steps, what stays visible of what is not called, and that nothing moves when off."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marginax as mx
from marginax.cli.app import run as command
from marginax.cli.exits import Exit
from marginax.config import parse_config
from marginax.engine.calls import call_columns
from marginax.parameter_diff import parameter_diff
from marginax.payment_sections import Calls
from markets import BOOK, balances, changed, clean, config, margin, positions, row, tables
from reference.payments import transfer

CALLS = "[calls]\nminimum_transfer = 5000.0\nrounding = 1000.0\n"
# Long is short of its margin by a little, short by much; the others are where they were.
MONEY = {"long": 3_000.0, "short": -20_000.0}


def poor() -> pl.DataFrame:
    owed = pl.col("account_id").replace_strict(MONEY, default=None, return_dtype=pl.Float64)
    return balances().with_columns(pl.coalesce(owed, "amount").alias("amount"))


@cache
def called(text: str = CALLS) -> mx.Result:
    return margin(tables(balances=poor()), config(text))


def columns(equity: float, initial: float, maintenance: float, **settings: float) -> dict[str, float]:
    found = call_columns(*(np.array([each]) for each in (equity, initial, maintenance)), Calls(**settings))
    return {name: float(value[0]) for name, value in found.items()}


@pytest.mark.parametrize(
    ("amount", "minimum", "step"),
    [
        ("12345.67", "1000", "1000"), ("999.99", "1000", "1000"), ("1000", "1000", "1000"), ("1000.01", "1000", "1000"),
        ("105", "100", "70"), ("1.1", "0", "0.1"), ("0.3", "0", "0.1"), ("2500000", "500000", "10000"),
        ("499999.99", "500000", "10000"), ("0", "0", "5"), ("7", "0", "1000000"),
    ],
)  # fmt: skip
def test_transfers_are_those_of_exact_arithmetic(amount: str, minimum: str, step: str) -> None:
    settings = {"minimum_transfer": float(minimum), "rounding": float(step)}
    short = columns(0.0, float(amount), float(amount) or 1.0, **settings)
    assert short["call"] == pytest.approx(float(transfer(amount, minimum, step, called=True)), rel=1e-12)
    assert (short["shortfall"], short["returnable"]) == (float(amount), 0.0)
    rich = columns(float(amount), 0.0, 0.0, **settings)
    assert rich["returnable"] == pytest.approx(float(transfer(amount, minimum, step, called=False)), rel=1e-12)
    assert (rich["call"], rich["shortfall"]) == (0.0, 0.0)


@pytest.mark.parametrize("digits", [8, 10, 12])
def test_large_amounts_are_whole_steps_of_exact_arithmetic(digits: int) -> None:
    """Amounts of up to 1e12 steps of a cent that are whole steps, as the difference of two amounts of float64."""
    rng = np.random.default_rng(digits)
    for cents in rng.integers(10 ** (digits - 1), 10**digits, 500).tolist():
        amount = f"{cents // 100}.{cents % 100:02d}"
        short = columns(0.0, float(amount), float(amount), rounding=0.01)
        assert round(short["call"] * 100) == transfer(amount, "0", "0.01", called=True) * 100 == cents
        rich = columns(float(amount), 0.0, 0.0, rounding=0.01)
        assert round(rich["returnable"] * 100) == transfer(amount, "0", "0.01", called=False) * 100 == cents


def test_the_terms_of_an_annex() -> None:
    """As ISDA 1994 CSA, paragraphs 3 and 13(b)(iv), have it: with a Minimum Transfer Amount of 250,000 and
    rounding to 10,000, a Delivery Amount of 1,234,567 is 1,240,000, a Return Amount of as
    much 1,230,000, and 240,000 is not transferred."""
    annex = {"minimum_transfer": 250_000.0, "rounding": 10_000.0}
    assert columns(0.0, 1_234_567.0, 1e6, **annex)["call"] == 1_240_000
    assert columns(1_234_567.0, 0.0, 0.0, **annex)["returnable"] == 1_230_000
    assert columns(0.0, 240_000.0, 2e5, **annex) == {"call": 0.0, "shortfall": 240_000.0, "returnable": 0.0}


money = st.floats(-1e9, 1e9)


@given(
    equity=money, initial=st.floats(0, 1e9), share=st.floats(0, 1), minimum=st.floats(0, 1e6), step=st.floats(1, 1e6)
)
def test_a_call_covers_the_shortfall_and_a_return_leaves_the_margin(
    equity: float, initial: float, share: float, minimum: float, step: float
) -> None:
    found = columns(equity, initial, share * initial, minimum_transfer=minimum, rounding=step)
    off = columns(equity, initial, share * initial)
    assert found["shortfall"] == off["call"]
    slack = 1e-8 * step + 1e-12 * abs(equity)
    if found["call"]:
        assert found["shortfall"] - slack <= found["call"] < found["shortfall"] + step + slack
        assert found["shortfall"] >= minimum
    else:
        assert found["shortfall"] <= slack or found["shortfall"] < minimum
    assert found["returnable"] <= max(equity - initial, 0) + slack
    assert equity - found["returnable"] >= initial - slack or found["returnable"] == 0
    assert min(found["call"], found["returnable"]) == 0


def test_who_has_no_margin_has_no_call_and_infinite_amounts_stay_infinite() -> None:
    nothing = columns(100.0, np.nan, np.nan, minimum_transfer=5.0, rounding=10.0)
    assert all(np.isnan(each) for each in nothing.values())
    assert columns(0.0, 1e300, 1.0, rounding=1e-200)["call"] == 1e300


def test_calls_of_a_book_are_whole_steps_and_what_is_not_called_is_still_seen() -> None:
    plain, got = called(""), called()
    both = got.margins.join(plain.margins.select("account_id", missing="call"), on="account_id")
    assert both["shortfall"].equals(both["missing"].rename("shortfall"))
    small, large = row(got, "long"), row(got, "short")
    assert 0 < small["shortfall"] < 5_000
    assert small["call"] == 0
    assert large["call"] == 1_000 * np.ceil(large["shortfall"] / 1_000) > 5_000
    saver = row(got, "saver")
    assert saver["returnable"] == 1_000 * np.floor(saver["available"] / 1_000) > 0
    totals = got.manifest["totals"]
    for name in ("call", "shortfall", "returnable"):
        assert totals[name] == pytest.approx(got.margins[name].sum())
    assert totals["shortfall"] == pytest.approx(plain.manifest["totals"]["call"])
    assert got.manifest["configuration"]["calls"] == {"minimum_transfer": 5_000.0, "rounding": 1_000.0}


def test_without_the_section_the_call_is_the_shortfall_and_no_column_is_new() -> None:
    assert "shortfall" not in clean().margins.columns
    plain = called("")
    short = pl.col("equity") < pl.col("maintenance_margin")
    wanted = pl.when(short).then(pl.col("initial_margin") - pl.col("equity")).otherwise(0.0)
    assert plain.margins.select(wanted.alias("call")).equals(plain.margins.select("call"))
    others = [name for name in plain.margins.columns if name != "call"]
    assert called().margins.select(others).equals(plain.margins.select(others))


def test_isolated_positions_are_called_alike() -> None:
    held = positions().with_columns(isolated_margin=pl.when(pl.col("account_id") == "short").then(-4_000.0))
    got = margin(tables(positions=held), config(CALLS))
    (alone,) = got.isolated.iter_rows(named=True)
    assert alone["call"] == 1_000 * np.ceil(alone["shortfall"] / 1_000) > 0


def test_who_has_no_margin_is_not_called() -> None:
    lost = changed(balances(), "asset", "SHIB", row=3)
    got = margin(tables(balances=lost), config(CALLS), on_error="quarantine")
    assert [row(got, "hedged")[name] for name in ("call", "shortfall", "returnable")] == [None] * 3


def test_whatif_tells_what_another_minimum_would_call() -> None:
    held, known = ({name: each for name, each in tables(balances=poor()).items() if (name in BOOK) == own}
                   for own in (True, False))  # fmt: skip
    found = parameter_diff(mx.read_book(**held), mx.read_market(**known), config(), config(CALLS))
    assert found.totals["no_longer_called"] == 1
    assert found.totals["newly_called"] == 0
    assert found.totals["same"] == found.totals["compared"]
    assert found.totals["call_after"] == pytest.approx(called().manifest["totals"]["call"])


def test_the_command_tells_the_shortfall_beside_the_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {}
    for name, table in tables(balances=poor()).items():
        table.write_parquet(files.setdefault(name, tmp_path / f"{name}.parquet"))
    (tmp_path / "calls.toml").write_text(CALLS)
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert command(["margin", *words, "--config", str(tmp_path / "calls.toml"), "--out", str(tmp_path / "out")]) == (
        Exit.SUCCESS
    )
    printed = capsys.readouterr().out
    assert "shortfall" in printed
    assert "returnable" in printed
    assert "1 account called" in printed


def test_a_dataset_has_the_totals_of_its_book(tmp_path: Path) -> None:
    settings = config(CALLS + "[funding]\naccrued = true\n")
    held, known = tables(balances=poor()), {name: each for name, each in tables().items() if name not in BOOK}
    for name in ("positions", "balances"):
        held[name].write_parquet(tmp_path / f"{name}.parquet")
    parts = mx.partition_book(
        positions=tmp_path / "positions.parquet",
        balances=tmp_path / "balances.parquet",
        partitions=2,
        out=tmp_path / "parts",
    )
    market = mx.read_market(**known)
    done = mx.margin_dataset(parts, held["instruments"], market, settings, out=tmp_path / "out")
    whole = margin(held, settings)
    assert done.manifest["totals"] == pytest.approx(whole.manifest["totals"])
    assert done.manifest["totals"]["accrued_funding"] < 0  # no quote says a rate, and both sides owe the worst
    assert done.margins().collect().sort("account_id").equals(whole.margins)
    assert done.manifest["data"]["funding"] == whole.manifest["data"]["funding"]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"rounding": -1.0}, "greater than or equal to 0"), ({"minimum": 5.0}, "is not a key")],
)
def test_a_section_that_is_wrong_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(mx.BadInput, match=words):
        parse_config({"calls": given}, "test")
