"""The daily table of a backtest at the door: one row per day, portfolio and model, sorted once into plain arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from marginax.problems import SHOWN, BadInput, Problem

NAME = "daily"
TEXTS, AMOUNTS = ("portfolio", "kind", "model"), ("loss", "var", "es", "charged")
# VaR and ES of one law may differ by rounding where nothing is lost beyond VaR.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Daily:
    """What every model said of the same rows: all days of the first portfolio, in order, then those of the next.

    `portfolios`, their `kinds` and `models` are named in the order of the table. `day` counts the dates of the table,
    `begin` is the first row of each portfolio and, last, the number of rows.
    """

    models: tuple[str, ...]
    portfolios: tuple[str, ...]
    kinds: tuple[str, ...]
    begin: Int64[np.ndarray, " portfolios+1"]
    day: Int64[np.ndarray, " rows"]
    loss: Float64[np.ndarray, "models rows"]
    var: Float64[np.ndarray, "models rows"]
    shortfall: Float64[np.ndarray, "models rows"]
    charged: Float64[np.ndarray, "models rows"]

    @cached_property
    def portfolio(self) -> Int64[np.ndarray, " rows"]:
        """The portfolio of each row, by its number."""
        return np.repeat(np.arange(len(self.portfolios)), np.diff(self.begin))


def read_daily(daily: pl.DataFrame) -> Daily:
    """Check and sort the table.

    Raises BadInput for columns that are missing or of another type, for nulls, NaN and infinite numbers, for an ES that
    is not positive or below VaR, for a day twice, for a portfolio of two kinds, and for models of different days.
    """
    _check_columns(daily)
    _check_values(daily)
    codes, names = {}, {}
    for column in TEXTS:
        text = daily[column].cast(pl.String)
        known = text.unique(maintain_order=True)
        names[column] = tuple(known.to_list())
        codes[column] = text.replace_strict(known, np.arange(len(known))).to_numpy()
    dates = daily["date"].unique().sort()
    day = daily["date"].replace_strict(dates, np.arange(len(dates))).to_numpy()
    key = (codes["model"] * len(names["portfolio"]) + codes["portfolio"]) * len(dates) + day
    order = np.argsort(key, kind="stable")
    key = key[order]
    again = order[1:][key[1:] == key[:-1]]
    _raise(daily, again, "date", "this day, portfolio and model stand in a row above", "Keep one of the rows")
    days = _same_days(daily, key.reshape(-1), order, names["model"], len(names["portfolio"]) * len(dates))
    portfolio = days // len(dates)
    kind = _kinds(daily, codes["portfolio"], codes["kind"], len(names["portfolio"]))
    loss, var, shortfall, charged = (
        daily[column].cast(pl.Float64).to_numpy()[order].reshape(len(names["model"]), -1) for column in AMOUNTS
    )
    return Daily(
        models=names["model"],
        portfolios=names["portfolio"],
        kinds=tuple(names["kind"][each] for each in kind),
        begin=np.searchsorted(portfolio, np.arange(len(names["portfolio"]) + 1)),
        day=days % len(dates),
        loss=loss,
        var=var,
        shortfall=shortfall,
        charged=charged,
    )


def _check_columns(daily: pl.DataFrame) -> None:
    wanted = {"date": "dates or times", **dict.fromkeys(TEXTS, "text"), **dict.fromkeys(AMOUNTS, "numbers")}
    problems = []
    for column, what in wanted.items():
        if column not in daily.columns:
            problems.append(Problem(NAME, column, None, "is missing", f"Add this column of {what}", table=NAME))
            continue
        kind = daily.schema[column]
        fits = (
            kind.is_numeric()
            if column in AMOUNTS
            else kind in (pl.Date, pl.Datetime, pl.String, pl.Categorical, pl.Enum)
        )
        if not fits or (column == "date") != kind.is_temporal():
            problems.append(Problem(NAME, column, None, f"holds {kind}", f"Give {what}", table=NAME))
    if not problems and daily.is_empty():
        problems.append(Problem(NAME, None, None, "has no rows", "Judge a backtest of at least one day", table=NAME))
    if problems:
        raise BadInput(problems)


def _check_values(daily: pl.DataFrame) -> None:
    for column in ("date", *TEXTS, *AMOUNTS):
        _raise(
            daily, _where(daily[column].is_null()), column, "is null", "Fill it, or leave the row out for all models"
        )
    for column in AMOUNTS:
        _raise(daily, _where(~daily[column].is_finite()), column, "is no finite number", "Give an amount of money")
    var, shortfall = (daily[column].cast(pl.Float64) for column in ("var", "es"))
    _raise(daily, _where(shortfall <= 0), "es", "is not positive", "Floor expected shortfall above zero")
    below = _where(var > shortfall * (1 + ROUNDING))
    _raise(daily, below, "es", "is below value at risk", "Correct the forecasts: the mean of what is worse is no less")


def _same_days(
    daily: pl.DataFrame,
    key: Int64[np.ndarray, " rows"],
    order: Int64[np.ndarray, " rows"],
    models: Sequence[str],
    width: int,
) -> Int64[np.ndarray, " rows_a_model"]:
    """The portfolios and days of every model, which are those of the first."""
    begin = np.searchsorted(key, np.arange(len(models) + 1) * width)
    first = key[: begin[1]]
    for number, model in enumerate(models[1:], 1):
        own = key[begin[number] : begin[number + 1]] - number * width
        extra = order[begin[number] :][np.flatnonzero(~np.isin(own, first, assume_unique=True))]
        missing = order[np.flatnonzero(~np.isin(first, own, assume_unique=True))]
        remedy = "Give the same days and portfolios of every model"
        _raise(daily, extra, "model", f"`{models[0]}` has no row of this day and portfolio", remedy)
        _raise(daily, missing, "model", f"`{model}` has no row of this day and portfolio", remedy)
    return first


def _kinds(
    daily: pl.DataFrame, portfolio: Int64[np.ndarray, " rows"], kind: Int64[np.ndarray, " rows"], portfolios: int
) -> Int64[np.ndarray, " portfolios"]:
    first = np.empty(portfolios, np.int64)
    first[portfolio[::-1]] = kind[::-1]
    other = np.flatnonzero(kind != first[portfolio])
    _raise(daily, other, "kind", "this portfolio is of another kind in a row above", "Give a portfolio one kind")
    return first


def _where(bad: pl.Series) -> Int64[np.ndarray, " rows"]:
    return bad.fill_null(False).arg_true().to_numpy().astype(np.int64)


def _raise(daily: pl.DataFrame, rows: Int64[np.ndarray, " rows"], column: str, what: str, remedy: str) -> None:
    if not len(rows):
        return
    problems = []
    for row in np.sort(rows)[:SHOWN].tolist():
        given = ", ".join(str(daily[each][row]) for each in ("date", "portfolio", "model"))
        problems.append(Problem(NAME, column, row + 1, f"{what} ({given})", remedy, table=NAME))
    raise BadInput(problems, total=len(rows))
