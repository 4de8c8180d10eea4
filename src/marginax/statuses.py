"""The status of every account: what its holdings rest on, and why.

Flags belong to rows of the cube (an instrument, an asset); an account has those of everything it holds.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

from marginax.calendars import DAY
from marginax.chains import VolatilitySource
from marginax.exposures import Exposures
from marginax.history import NO_PROXY, FactorHistory
from marginax.market import Market
from marginax.match import Matched
from marginax.status import Status

# Names listed in a reason before the rest is only counted.
NAMED = 8


@dataclass(frozen=True)
class Statuses:
    """Status and reason by holder; `codes` are values of `Status`, reasons are empty where all is well."""

    codes: Int64[np.ndarray, " holders"]
    reasons: np.ndarray

    @property
    def excepted(self) -> Bool[np.ndarray, " holders"]:
        """Holders without a margin."""
        return self.codes >= Status.MISSING_HISTORY

    def with_numerical(self, broken: Bool[np.ndarray, " holders"]) -> "Statuses":
        """The same, with `numerical` where a loss distribution turned out not to be finite."""
        broken = broken & ~self.excepted
        said = f"{Status.NUMERICAL.label}: the loss distribution is not finite"
        joined = np.where(self.reasons == "", said, said + "; " + self.reasons)
        return Statuses(np.where(broken, int(Status.NUMERICAL), self.codes), np.where(broken, joined, self.reasons))

    def counts(self, first: int) -> dict[str, int]:
        """How many of the first so many have each status, from `ok` to the gravest."""
        tally = np.bincount(self.codes[:first], minlength=len(Status))
        return {status.label: int(tally[status]) for status in Status}


def account_statuses(
    matched: Matched, exposures: Exposures, history: FactorHistory, *, stale_after_days: float
) -> Statuses:
    """Statuses before any number is computed."""
    accounts = matched.book.holders
    row_flags = _row_flags(matched, exposures, history, stale_after_days)
    held = pl.concat(
        [
            pl.DataFrame({"account": part.owners, "row": part.columns.astype(np.int64)})
            for part in (exposures.positions, exposures.collateral)
        ]
    )
    flags = [held.join(row_flags, on="row").select("account", "status", "name")]
    for broken, status, name in (
        (matched.unpriced, Status.MISSING_PRICE, "rows without a price were quarantined"),
        (matched.incomplete, Status.INCOMPLETE, "rows were quarantined at the door"),
    ):
        who = np.flatnonzero(broken)
        flags.append(
            pl.DataFrame({"account": who, "status": np.full(len(who), int(status)), "name": [name] * len(who)},
                         schema={"account": pl.Int64, "status": pl.Int64, "name": pl.String})
        )  # fmt: skip
    labels = pl.DataFrame({"status": [int(s) for s in Status], "label": [s.label for s in Status]})
    more = pl.col("name").len().cast(pl.Int64) - NAMED  # counts are unsigned
    names = pl.col("name").head(NAMED).str.join(", ") + pl.when(more > 0).then(
        pl.format(" and {} more", more)
    ).otherwise(pl.lit(""))
    told = (
        pl.concat(flags)
        .unique()
        .sort("account", "status", "name", descending=[False, True, False])
        .group_by("account", "status", maintain_order=True)
        .agg(names.alias("names"))
        .join(labels, on="status", maintain_order="left")
        .group_by("account", maintain_order=True)
        .agg(pl.col("status").max(), pl.format("{}: {}", "label", "names").str.join("; ").alias("reason"))
    )
    codes = np.zeros(accounts, np.int64)
    codes[told["account"].to_numpy()] = told["status"].to_numpy()
    reasons = np.full(accounts, "", object)
    reasons[told["account"].to_numpy()] = told["reason"].to_numpy()
    return Statuses(codes, reasons)


def _row_flags(matched: Matched, exposures: Exposures, history: FactorHistory, stale_after_days: float) -> pl.DataFrame:
    """(row, status, name) for every row of the cube that something can be said of."""
    said = _underlying_flags(matched.market, history, stale_after_days)
    listed = len(exposures.listed)
    assets = history.underlyings
    rows = pl.concat(
        [
            pl.DataFrame({"row": np.arange(listed), "asset": exposures.instruments.underlying.astype(np.int64)}),
            pl.DataFrame({"row": np.arange(listed), "asset": exposures.instruments.settle.astype(np.int64)}),
            pl.DataFrame({"row": listed + np.arange(assets), "asset": np.arange(assets)}),
        ]
    ).unique()
    flags = rows.join(said, on="asset").select("row", "status", "name")
    flags = pl.concat([flags, _option_flags(matched.market, exposures, history, stale_after_days)])
    old = matched.market.quotes.filter(pl.col("time") < matched.market.as_of - timedelta(days=stale_after_days))[
        "instrument_id"
    ]
    ids = matched.book.instruments.ids[exposures.listed]
    marks = pl.DataFrame({"row": np.arange(listed), "name": pl.Series(ids, dtype=pl.String)})
    refused = _fallback_flags(matched.market, "quotes").join(marks, on="name")
    flags = pl.concat([flags, refused.select("row", "status", name="reason")])
    flags = pl.concat([flags, _late_funding(exposures, ids)])
    late = np.flatnonzero(pl.Series(ids, dtype=pl.String).is_in(old.implode()).to_numpy())
    quoted = pl.DataFrame(
        {
            "row": late,
            "status": np.full(len(late), int(Status.STALE)),
            "name": [f"quote of {ids[k]}" for k in late],
        },
        schema=flags.schema,
    )
    return pl.concat([flags, quoted])


def _late_funding(exposures: Exposures, ids: np.ndarray) -> pl.DataFrame:
    """(row, status, name) of perpetuals whose next settlement is past already; none where funding is not counted."""
    known = exposures.market.funding
    late = [] if known is None else np.flatnonzero(known.late).tolist()
    rows = [(row, int(Status.STALE), f"funding of {ids[row]}, whose next settlement is past") for row in late]
    return pl.DataFrame(rows, schema={"row": pl.Int64, "status": pl.Int64, "name": pl.String}, orient="row")


def _option_flags(
    market: Market, exposures: Exposures, history: FactorHistory, stale_after_days: float
) -> pl.DataFrame:
    """(row, status, name) of options: volatilities that are not their own or not known, and forwards that are old."""
    chains, expiries = exposures.chains, exposures.chains.expiries
    limit = market.as_of - timedelta(days=stale_after_days)
    row_of = {number: row for row, number in enumerate(exposures.listed.tolist())}
    flags: list[tuple[int, int, str]] = []
    volatility_factors = {name: history.volatility_of(name) for name in set(expiries.underlying)}
    as_of = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    for number, expiry, source, contradicted in zip(
        chains.instrument.tolist(), chains.expiry, chains.source, chains.contradicted, strict=True
    ):
        row, name = row_of.get(number), expiries.underlying[expiry]
        if row is None:
            continue
        due = np.datetime_as_string(expiries.expiry[expiry], unit="D")
        if source == VolatilitySource.NONE:
            flags.append((row, int(Status.MISSING_VOLATILITY), f"options on {name}"))
        elif source == VolatilitySource.OTHER_EXPIRY:
            flags.append((row, int(Status.PROXIED), f"volatility of {name} {due} by another expiry"))
        if contradicted:
            flags.append((row, int(Status.STALE), f"mark or volatility of options on {name}, which disagree"))
        factor = volatility_factors[name]
        if history.leaning[factor]:
            flags.append((row, int(Status.PROXIED), f"volatility of {name} by its price"))
        elif (as_of - history.last_bar[factor]) / DAY > stale_after_days:
            flags.append((row, int(Status.STALE), f"volatility history of {name}"))
        time = expiries.time[expiry]
        if time is not None and time < limit:
            flags.append((row, int(Status.STALE), f"forward of {name} {due}"))
    schema = {"row": pl.Int64, "status": pl.Int64, "name": pl.String}
    return pl.DataFrame(flags, schema=schema, orient="row")


def _underlying_flags(market: Market, history: FactorHistory, stale_after_days: float) -> pl.DataFrame:
    as_of = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    limit = market.as_of - timedelta(days=stale_after_days)
    old_index = (market.underlyings["time"] < limit).fill_null(False).to_numpy()
    flags: list[tuple[int, int, str]] = []
    for k in range(history.underlyings):
        name = history.names[k]
        if history.missing[k]:
            flags.append((k, int(Status.MISSING_HISTORY), name))
        elif history.frozen[k]:
            flags.append((k, int(Status.PROXIED), f"{name}, which never moved"))
        elif not history.own[k] and history.proxy[k] != NO_PROXY:
            flags.append((k, int(Status.PROXIED), f"{name} by {history.names[history.proxy[k]]}"))
        anchor = _anchor(history, k)
        if history.own[anchor] and (as_of - history.last_bar[anchor]) / DAY > stale_after_days:
            last = np.datetime_as_string(history.last_bar[anchor], unit="D")
            flags.append((k, int(Status.STALE), f"history of {history.names[anchor]} ends {last}"))
        if old_index[k]:
            flags.append((k, int(Status.STALE), f"index price of {name}"))
    schema = {"asset": pl.Int64, "status": pl.Int64, "name": pl.String}
    assets = pl.DataFrame({"asset": np.arange(history.underlyings), "name": history.names[: history.underlyings]})
    refused = _fallback_flags(market, "underlyings").join(assets, on="name")
    return pl.concat(
        [pl.DataFrame(flags, schema=schema, orient="row"), refused.select("asset", "status", name="reason")]
    )


def _fallback_flags(market: Market, table: str) -> pl.DataFrame:
    """(name, status, reason) of every price of a table that fell back on the last good one."""
    rows = [(each.name, int(Status.FALLBACK), each.reason) for each in market.fallbacks or () if each.table == table]
    return pl.DataFrame(rows, schema={"name": pl.String, "status": pl.Int64, "reason": pl.String}, orient="row")


def _anchor(history: FactorHistory, factor: int) -> int:
    """The underlying whose history this one moves by: itself, or the end of its chain of proxies."""
    while not history.own[factor] and history.proxy[factor] != NO_PROXY:
        factor = int(history.proxy[factor])
    return factor
