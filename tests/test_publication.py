"""The run before: prices that fall back through the command line, and totals that move too far to be published."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marginax.cli.app import run
from marginax.cli.exits import EXIT_CODES, Exit
from marginax.cli.init import NAMES
from marginax.datasets import partition_book
from marginax.price_sections import Publication
from marginax.problems import BadInput
from marginax.publication import NotPublished, compared, previous_manifest

MARKET = ("quotes", "underlyings", "history", "forwards")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `marginax init` leaves it, its margins in `first`, files of an hour later where BTC is tenfold, and
    of threefold positions."""
    folder = tmp_path_factory.mktemp("venue") / "start"
    assert run(["init", str(folder)]) == Exit.SUCCESS
    assert run(words(folder, "first")) == Exit.SUCCESS
    for name, price, key in (("quotes", "mark_price", "instrument_id"), ("underlyings", "index_price", "underlying")):
        rows = pl.read_csv(folder / f"{name}.csv", try_parse_dates=True)
        linear = pl.col(key).str.starts_with("BTC") & ~pl.col(key).str.contains("-C$|-P$")
        tenfold = pl.when(linear).then(10 * pl.col(price)).otherwise(price).alias(price)
        rows = rows.with_columns(tenfold, time=pl.col("time").dt.offset_by("1h"))
        rows.drop("bid", "ask", strict=False).write_csv(
            folder / f"jumped_{name}.csv", datetime_format="%Y-%m-%dT%H:%M:%SZ"
        )
    held = pl.read_csv(folder / "positions.csv", infer_schema=False)
    twice = held.with_columns((pl.col("quantity").cast(pl.Float64) * 3).cast(pl.String))
    twice.write_csv(folder / "threefold_positions.csv")
    return folder


def words(folder: Path, out: str, *more: str, **files: str) -> list[str]:
    """The words of `marginax margin` on the tables of a folder."""
    named = [(f"--{name}", str(folder / f"{files.get(name, name)}.csv")) for name in NAMES]
    return ["margin", *(word for pair in named for word in pair), "--out", str(folder / out), *more]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def before(start: Path) -> list[str]:
    return ["--previous-quotes", str(start / "quotes.csv"), "--previous-underlyings", str(start / "underlyings.csv")]


def test_a_price_that_jumps_falls_back_and_the_next_run_stands_on_the_last_good_one(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jumped = {"quotes": "jumped_quotes", "underlyings": "jumped_underlyings"}
    assert run(words(start, "fallen", *before(start), **jumped)) == Exit.SUCCESS
    said = capsys.readouterr().out
    assert "Prices refused for the last good ones: index price of BTC: " in said
    assert "fallback" in said
    fallen, first = manifest(start / "fallen"), manifest(start / "first")
    assert fallen["accounts"]["by_status"]["fallback"] > 0
    assert set(fallen["last_good_prices"]) == {"quotes", "underlyings"}
    assert fallen["totals"]["equity"] == pytest.approx(first["totals"]["equity"], rel=1e-3)
    used = pl.read_parquet(start / "fallen" / "checked_underlyings.parquet").filter(underlying="BTC")
    good = pl.read_csv(start / "underlyings.csv").filter(underlying="BTC")
    assert used["index_price"].to_list() == good["index_price"].to_list()
    # The price is still wrong an hour later: it is measured against the last good one, not against itself.
    files = [f"--previous-{name}={start / 'fallen' / f'checked_{name}.parquet'}" for name in ("quotes", "underlyings")]
    assert run(words(start, "again", *files, **jumped)) == Exit.SUCCESS
    assert manifest(start / "again")["accounts"]["by_status"] == fallen["accounts"]["by_status"]


def test_totals_that_moved_too_far_are_not_published_unless_somebody_acknowledges_it(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = words(start, "moved", "--previous-run", str(start / "first"), positions="threefold_positions")
    assert run(moved) == Exit.NOT_PUBLISHED == 4
    told = capsys.readouterr()
    assert "not published, nothing was written" in told.err
    assert "total initial margin: " in told.err
    assert "`publication.largest_move` is 50%; `--acknowledge` publishes it all the same" in told.err
    assert not (start / "moved").exists()
    assert run([*moved, "--acknowledge"]) == Exit.SUCCESS
    record = manifest(start / "moved")["previous_run"]
    assert record["acknowledged"] is True
    assert {"initial_margin", "maintenance_margin"} <= set(record["beyond"])
    assert record["changes"]["initial_margin"] > 0.5
    assert record["totals"]["initial_margin"] == manifest(start / "first")["totals"]["initial_margin"]


def test_what_lies_in_the_folder_stands_as_it_was(start: Path) -> None:
    stood = (start / "first" / "manifest.json").read_bytes()
    moved = words(start, "first", "--previous-run", str(start / "first"), positions="threefold_positions")
    assert run(moved) == Exit.NOT_PUBLISHED
    assert (start / "first" / "manifest.json").read_bytes() == stood


def test_totals_that_hardly_moved_are_published_and_compared(start: Path) -> None:
    assert run(words(start, "same", "--previous-run", str(start / "first"))) == Exit.SUCCESS
    record = manifest(start / "same")["previous_run"]
    assert record["beyond"] == []
    assert record["acknowledged"] is False
    assert record["changes"] == {"equity": 0.0, "initial_margin": 0.0, "maintenance_margin": 0.0}


def test_a_dataset_is_held_back_and_checked_alike(start: Path) -> None:
    for name, positions in (("parts", "positions"), ("threefold", "threefold_positions")):
        partition_book(
            positions=start / f"{positions}.csv", balances=start / "balances.csv", partitions=2, out=start / name
        )

    def margined(dataset: str, *more: str) -> int:
        tables = [f"--{name}={start / f'{name}.csv'}" for name in ("instruments", *MARKET)]
        return run(
            ["margin", "--dataset", str(start / dataset), *tables, "--out", str(start / "of"), *before(start), *more]
        )

    assert margined("parts") == Exit.SUCCESS
    assert {"checked_quotes.parquet", "checked_underlyings.parquet"} <= set(manifest(start / "of")["outputs"])
    stood = (start / "of" / "manifest.json").read_bytes()
    assert margined("threefold", "--previous-run", str(start / "of")) == Exit.NOT_PUBLISHED
    assert (start / "of" / "manifest.json").read_bytes() == stood
    assert margined("threefold", "--previous-run", str(start / "of"), "--acknowledge") == Exit.SUCCESS
    assert manifest(start / "of")["previous_run"]["acknowledged"] is True


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--acknowledge"], "--acknowledge: acknowledges nothing. Name the run"),
        (["--previous-quotes", "x.csv"], "--previous-underlyings: is not given"),
        (["--previous-run", "nowhere"], "there is no such file. Name a folder that `marginax margin` wrote"),
        (["--previous-quotes", "no.csv", "--previous-underlyings", "no.csv"], "no.csv"),
    ],
)
def test_a_run_before_that_is_none_is_refused(
    start: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert run(words(start, "never", *more)) == Exit.BAD_INPUT
    assert said in capsys.readouterr().err
    assert not (start / "never").exists()


def test_a_folder_without_totals_and_another_currency_are_refused(tmp_path: Path) -> None:
    for text in ("{}", "no JSON", '{"totals": {"equity": 1}}', "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(BadInput, match="says no totals of a margin"):
            previous_manifest(tmp_path)
    with pytest.raises(BadInput, match="is in EUR, and this run in USD"):
        compared(totals(1.0), {**totals(1.0), "currency": "EUR"}, Publication(), acknowledged=False)


def totals(equity: float | None, initial: float | None = 1.0) -> dict[str, Any]:
    found = {"equity": equity, "initial_margin": initial, "maintenance_margin": 0.0}
    return {"folder": "before", "as_of": "2026-01-01T00:00:00+00:00", "currency": "USD", "totals": found}


@pytest.mark.parametrize(
    ("now", "then", "beyond"),
    [
        (totals(149.0), totals(100.0), []),
        (totals(151.0), totals(100.0), ["equity"]),
        (totals(-10.0), totals(100.0), ["equity"]),
        (totals(-151.0), totals(-100.0), ["equity"]),
        (totals(0.0), totals(0.0), []),
        (totals(1.0), totals(0.0), ["equity"]),
        (totals(None), totals(1.0), ["equity"]),
        (totals(1.0, 0.4), totals(1.0), ["initial_margin"]),
    ],
)
def test_a_move_is_relative_to_the_size_of_what_was(
    now: dict[str, Any], then: dict[str, Any], beyond: list[str]
) -> None:
    assert compared(now, then, Publication(), acknowledged=True)["beyond"] == beyond
    if beyond:
        with pytest.raises(NotPublished, match=f"total {beyond[0].replace('_', ' ')}: "):
            compared(now, then, Publication(), acknowledged=False)


def test_help_names_the_exit_code() -> None:
    assert "4 totals moved too far to be published" in EXIT_CODES
