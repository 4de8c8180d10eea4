"""Margins of a partitioned book: those of the whole book to the bit, from partitions that follow one another."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import marginax as mx
from marginax.cli.app import run
from marginax.cli.exits import Exit
from marginax.problems import BadInput
from marginax.synthetic import venue

ACCOUNTS = 300
MARKET = ("quotes", "underlyings", "history", "forwards")


@cache
def tables() -> dict[str, pl.DataFrame]:
    """A small venue; one account has no position, and one no balance."""
    made = venue(accounts=ACCOUNTS, options=2).tables
    first, second = sorted(made["balances"]["account_id"].unique())[:2]
    return {
        **made,
        "positions": made["positions"].filter(pl.col("account_id") != first),
        "balances": made["balances"].filter(pl.col("account_id") != second),
    }


def market() -> mx.Market:
    return mx.read_market(**{name: tables()[name] for name in MARKET})


@cache
def whole() -> mx.Result:
    held = mx.read_book(**{name: tables()[name] for name in ("instruments", "positions", "balances")})
    return mx.margin_book(held, market(), "monte_carlo")


def dataset(folder: Path, partitions: int = 7, **other: Any) -> mx.Dataset:
    book = {name: tables()[name] for name in ("positions", "balances")}
    return mx.partition_book(**{**book, "partitions": partitions, "out": folder / "book", **other})


def margined(folder: Path, book: mx.Dataset, **options: Any) -> mx.DatasetResult:
    given = {"model": "monte_carlo", "out": folder / "margins", **options}
    return mx.margin_dataset(book, tables()["instruments"], market(), **given)


def test_every_account_has_the_margin_of_the_whole_book_to_the_bit(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    book = dataset(tmp_path)
    result = margined(tmp_path, book, progress=lambda some, total: done.append((some, total)))
    margins = result.margins().sort("account_id").collect()
    assert margins.equals(whole().margins)
    assert [some for some, _ in done] == sorted(some for some, _ in done)
    assert done[-1] == (len(margins), len(margins))
    told, wanted = result.manifest, whole().manifest
    assert told["accounts"] == wanted["accounts"]
    assert told["scenarios"]["sha256"] == wanted["scenarios"]["sha256"]
    for name, amount in wanted["totals"].items():
        assert told["totals"][name] == pytest.approx(amount, rel=1e-12)
    for name in ("mean", "tail_mean", "worst"):
        assert told["uncovered_loss"][name] == pytest.approx(wanted["uncovered_loss"][name], rel=1e-12)
    assert told["uncovered_loss"]["worst_scenario"] == wanted["uncovered_loss"]["worst_scenario"]
    assert json.loads((tmp_path / "margins" / "manifest.json").read_text()) == told
    for file, facts in told["outputs"].items():
        assert pl.scan_parquet(tmp_path / "margins" / file).select(pl.len()).collect().item() == facts["rows"]
    assert "partition=00006/margins.parquet" in told["outputs"]
    ranks = margins.filter(pl.col("margin_ratio").is_not_null()).sort("margin_ratio")["account_id"][:3].to_list()
    assert set(ranks) <= set(result.tally.closest["account_id"])


def test_the_market_is_made_ready_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, module = [], sys.modules["marginax.engine.margin_dataset"]
    make = module.ready_for
    monkeypatch.setattr(module, "ready_for", lambda *each, **more: calls.append(1) or make(*each, **more))
    margined(tmp_path, dataset(tmp_path, 3))
    assert len(calls) == 1


def test_models_that_see_losses_go_through_partitions_too(tmp_path: Path) -> None:
    result = margined(tmp_path, dataset(tmp_path, 2), model="expected_shortfall", attribution=True)
    shares = pl.read_parquet(tmp_path / "margins" / "partition=*" / "attribution.parquet")
    total = shares.group_by("account_id").agg(pl.col("total").sum())
    both = result.margins().collect().join(total, on="account_id")
    assert len(both) > ACCOUNTS / 2
    assert ((both["total"] - both["initial_margin"]).abs() <= 1e-4 * (1 + both["core"].abs())).all()
    sees = margined(tmp_path, dataset(tmp_path, 2), model=mx.Config(model="fixed_legs"))
    assert sees.manifest["kernel"] == "JAX, tile by tile"
    assert sees.tally.accounts == len(whole().margins)


def test_what_was_set_aside_leaves_its_account_without_a_margin(tmp_path: Path) -> None:
    spoilt = tables()["positions"].with_row_index("k")
    bad = spoilt.select(pl.when(pl.col("k") == 50).then(float("nan")).otherwise("quantity").alias("quantity"))
    positions = spoilt.drop("k").with_columns(bad["quantity"])
    alone = pl.DataFrame({"account_id": "nobody else", "instrument_id": "X", "quantity": float("inf")})
    positions = pl.concat([positions, alone], how="diagonal_relaxed")
    book = dataset(tmp_path, positions=positions, on_error="quarantine")
    result = margined(tmp_path, book, on_error="quarantine")
    margins = result.margins().collect()
    lost = margins.filter(pl.col("initial_margin").is_null())
    assert set(lost["account_id"]) == {spoilt["account_id"][50], "nobody else"}
    assert lost["status"].unique().to_list() == ["incomplete"]
    assert result.tally.excepted == 2
    assert result.tally.quarantined == 2
    aside = pl.read_parquet(tmp_path / "margins" / "partition=*" / "quarantine.parquet")
    assert len(aside) == 2


def test_a_folder_of_something_else_is_refused_and_an_earlier_run_replaced(tmp_path: Path) -> None:
    book = dataset(tmp_path, 2)
    margined(tmp_path, book)
    older = dataset(tmp_path, 3)
    margined(tmp_path, older)
    assert (tmp_path / "margins" / "partition=00002").is_dir()
    margined(tmp_path, dataset(tmp_path, 2))
    assert not (tmp_path / "margins" / "partition=00002").exists()
    stray = tmp_path / "margins" / "partition=00001" / "letter.txt"
    stray.write_text("dear")
    with pytest.raises(BadInput, match=r"partition=00001/letter\.txt"):
        margined(tmp_path, book)
    assert stray.read_text() == "dear"
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(BadInput, match=r"letter\.txt"):
        margined(tmp_path, book, out=other)
    with pytest.raises(BadInput, match="is a file"):
        margined(tmp_path, book, out=other / "letter.txt")
    assert [path.name for path in other.iterdir()] == ["letter.txt"]


def test_trouble_in_a_later_partition_leaves_nothing(tmp_path: Path) -> None:
    unknown = pl.DataFrame({"account_id": [f"x{k}" for k in range(9)], "instrument_id": "NO-SUCH", "quantity": 1.0})
    positions = pl.concat([tables()["positions"], unknown], how="diagonal_relaxed")
    with pytest.raises(BadInput, match="NO-SUCH"):
        margined(tmp_path, dataset(tmp_path, positions=positions))
    assert {path.name for path in tmp_path.iterdir()} == {"book"}


def test_a_dataset_that_is_partitioned_anew_under_a_run_ends_it(tmp_path: Path) -> None:
    book = dataset(tmp_path, 4)
    anew: list[mx.Dataset] = []

    def partition_again(done: int, total: int) -> None:
        if not anew:
            anew.append(dataset(tmp_path, 4, positions=tables()["positions"].with_columns(pl.col("quantity") * 10)))

    with pytest.raises(BadInput, match="is not the file that was partitioned"):
        margined(tmp_path, book, progress=partition_again)
    assert not (tmp_path / "margins").exists()


def test_a_file_that_was_written_over_is_refused(tmp_path: Path) -> None:
    book = dataset(tmp_path, 2)
    file = book.partitions[1].files["positions"]
    pl.read_parquet(file).with_columns(pl.col("quantity") * 1_000).write_parquet(file)
    with pytest.raises(BadInput, match=r"partition=00001.positions\.parquet: is not the file that was partitioned"):
        margined(tmp_path, mx.open_dataset(book.path))


def test_the_command_margins_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, table in tables().items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    files = [word for name in ("instruments", *MARKET) for word in (f"--{name}", str(tmp_path / f"{name}.parquet"))]
    where = str(dataset(tmp_path, 3).path)
    words = ["margin", *files, "--dataset", where, "--model", "monte_carlo", "--out", str(tmp_path / "out")]
    assert run(words) == Exit.SUCCESS
    said = capsys.readouterr().out
    assert f"{len(whole().margins)} accounts in" in said
    assert "Closest to trouble" in said
    assert str(tmp_path / "out" / "partition=*" / "margins.parquet") in said
    assert run([*words, "--json"]) == Exit.SUCCESS
    assert json.loads(capsys.readouterr().out)["preset"] == "monte_carlo"
    positions = ["--positions", str(tmp_path / "positions.parquet")]
    assert run([*words, *positions]) == Exit.BAD_INPUT
    assert "--positions" in capsys.readouterr().err
    without = [word for word in words if word not in ("--dataset", where)]
    assert run(without) == Exit.BAD_INPUT
    assert "--positions" in capsys.readouterr().err
    assert run([*without, *positions]) == Exit.BAD_INPUT
    assert "--balances" in capsys.readouterr().err
