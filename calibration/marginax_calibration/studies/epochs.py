"""The study of epochs: real accounts through 10 October 2025, hour by hour, dynamic margin against static.

The accounts are those of February 2026 carried back: at the start every position has its USD value and every account
its value, hence its equity ratio. Index prices are hourly closes of perpetuals (of spot where there are none), marks
those of the venue with the most volume where it has any. A coin without bars moves by its proxy (BTC) times a beta, in
what happens as in what is feared. Volumes, spreads and confidences of those days are not known: what closing costs and
how good prices are is not charged. The same accounts stand on the other side of every position once more: those who
rank first in February are short, and whoever was long that day is on the other side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

import marginax as mx
from marginax.epochs import Policy, Replayed, replay
from marginax.sections import Proxy
from marginax_calibration.studies.baselines import markdown
from marginax_calibration.studies.dynamic import Settings, variant
from marginax_calibration.studies.histories import read

START, END = datetime(2025, 10, 10, 6, tzinfo=UTC), datetime(2025, 10, 11, 6, tzinfo=UTC)
# A year and a quarter of hours, with 5 August 2024 in it.
BEGIN = datetime(2024, 7, 1, tzinfo=UTC)
# The bar of the hour from 21:00 is stamped at its end.
CRASH = datetime(2025, 10, 10, 22, tzinfo=UTC)
HOURLY = "crypto_intraday/binance_1h_2023_2026"
CRASH_HOURS = "crypto_intraday/binance_oct2025_crash_1h_spot_perp_mark"
VENUES = "crypto_intraday/multi_venue_perp_1h_2025_2026"
ACCOUNTS = "liquidations_accounts/hyperliquid_top_accounts_2026_02_04"
POSITIONS = "liquidations_accounts/hyperliquid_top_accounts_positions_2026_02_04"
PROXY = "BTC"
# Tokens of gold are no coins that fall with the others.
BETAS = {"PAXG": 0.1}
# Half a year of hours, and a month of them stressed: 1,000 bars would be six weeks.
HOURS: Settings = {
    "scenarios": {"window": 4_320},
    "stress_period": {"bars": 720},
    "liquidity": {"spread": 0.0, "fee": 0.0, "impact": 0.0, "vega_share": 0.0, "participation": 0.0},
    "oracle": {"confidence_weight": 0.0, "z": 0.0},
}
MODELS: Mapping[str, tuple[str, Settings]] = {"dynamic": ("dynamic", HOURS), "static": ("static", {})}
CALLS: tuple[Policy, ...] = ("paid", "closed")
MILLION = 1e6
HOUR = timedelta(hours=1)
# The accounts as they are, and on the other side of each of their positions.
SIDES: Mapping[str, float] = {"held": 1.0, "reversed": -1.0}
Found = dict[tuple[str, Policy], Replayed]


@dataclass(frozen=True)
class Carried:
    """The accounts carried back: tables of the book and of the market, the bars after it, and coins without any."""

    book: dict[str, Any]
    market: dict[str, Any]
    bars: pl.DataFrame
    without: tuple[str, ...]

    def read(self) -> tuple[mx.Book, mx.Market]:
        """Book and market as the door admits them."""
        return mx.read_book(**self.book), mx.read_market(**self.market, as_of=START)


def carried_back(folder: Path, *, side: float = 1.0) -> Carried:
    """The accounts with `side` times their positions at the prices of the start; raises BadInput for a missing file."""
    prices, marks = closes(folder), mark_closes(folder)
    thousands = pl.col("coin").str.contains("^k[A-Z]")
    positions = read(folder, POSITIONS).with_columns(
        instrument_id=pl.format("{}-PERP", "coin"),
        underlying=pl.when(thousands).then(pl.col("coin").str.slice(1)).otherwise("coin"),
        value=pl.when(pl.col("side") == "Long").then(1.0).otherwise(-1.0) * side * pl.col("position_value_usd"),
    )
    start = prices.filter(pl.col("time") == START)
    coins = positions["underlying"].unique().sort()
    without = coins.filter(~coins.is_in(start["underlying"].implode()))
    leader = prices.filter((pl.col("underlying") == PROXY) & pl.col("time").is_between(START, END))
    leader = leader.select("time", by="price")
    # Their level is of no consequence: positions have a value, and prices move by factors.
    standing = pl.DataFrame({"underlying": without, "beta": [BETAS.get(name, Proxy().beta) for name in without]})
    first = leader["by"][0]
    proxied = standing.join(leader, how="cross").select(
        "time", "underlying", price=(pl.col("by") / first) ** pl.col("beta")
    )
    moving = pl.concat([prices.filter(pl.col("time").is_between(START, END)), proxied]).filter(
        pl.col("underlying").is_in(coins.append(pl.Series([PROXY])).unique().implode())
    )
    index = moving.filter(pl.col("time") == START)
    listed = positions.select("instrument_id", "underlying").unique().sort("instrument_id")
    listed = listed.join(index.select("underlying", "price"), on="underlying")
    # The mark of the venue with the most volume, where there is one at the start.
    marked = marks.filter(pl.col("time") == START).select("underlying", mark="price")
    listed = listed.join(marked, on="underlying", how="left").with_columns(
        mark_price=pl.coalesce("mark", "price"), own=pl.col("mark").is_not_null()
    )
    terms = {"kind": "perpetual", "quote": "USD", "settlement": "linear"}
    held = positions.join(listed.select("instrument_id", "mark_price"), on="instrument_id")
    owners = read(folder, ACCOUNTS).filter(pl.col("account").is_in(held["account"].implode()))
    of_marks = marks.join(listed.filter("own").select("underlying", "instrument_id"), on="underlying")
    bars = pl.concat([moving, of_marks.select("time", "underlying", "price", "instrument_id")], how="diagonal")
    return Carried(
        book={
            "instruments": listed.select(
                "instrument_id", "underlying", **{name: pl.lit(word) for name, word in terms.items()}, multiplier=1.0
            ),
            "positions": held.select(
                "instrument_id",
                account_id="account",
                quantity=pl.col("value") / pl.col("mark_price"),
                entry_price="mark_price",
            ),
            "balances": owners.select(account_id="account", asset=pl.lit("USD"), amount="account_value_usd"),
        },
        market={
            "quotes": listed.select("instrument_id", "mark_price", time=pl.lit(START)),
            "underlyings": index.sort("underlying").select(
                "underlying", "time", index_price="price",
                proxy_beta=pl.col("underlying").replace_strict(BETAS, default=None, return_dtype=pl.Float64),
            ),
            "history": prices.filter(
                pl.col("time").is_between(BEGIN, START) & pl.col("underlying").is_in(index["underlying"].implode())
            ),
        },
        bars=bars.filter((pl.col("time") > START) & (pl.col("time") <= END)),
        without=tuple(without.to_list()),
    )  # fmt: skip


def closes(folder: Path) -> pl.DataFrame:
    """time, underlying, price: hourly closes, stamped at their end; each coin from its longest series."""

    def stamped(rows: pl.DataFrame) -> pl.DataFrame:
        time = (pl.col("time").cast(pl.Datetime("us", "UTC")) + HOUR).alias("time")
        return rows.select(time, "symbol", "close").rename({"symbol": "underlying", "close": "price"})

    series = [
        stamped(read(folder, HOURLY)),
        stamped(read(folder, VENUES).filter(pl.col("venue") == "bybit")),
        *(stamped(read(folder, CRASH_HOURS).filter(pl.col("market") == kind)) for kind in ("usdm_perp", "spot")),
    ]
    chosen = series[0]
    for each in series[1:]:
        chosen = pl.concat([chosen, each.filter(~pl.col("underlying").is_in(chosen["underlying"].unique().implode()))])
    return chosen.drop_nulls().sort("underlying", "time")


def mark_closes(folder: Path) -> pl.DataFrame:
    """time, underlying, price: the marks of perpetuals at the end of each hour."""
    time = (pl.col("time").cast(pl.Datetime("us", "UTC")) + HOUR).alias("time")
    rows = read(folder, CRASH_HOURS).filter(pl.col("market") == "usdm_mark")
    return rows.select(time, underlying="symbol", price="close").drop_nulls().sort("underlying", "time")


def run(
    folder: Path, out: Path, *, told: Callable[[str, int, int], None] | None = None
) -> tuple[Carried, dict[str, Found]]:
    """Replay the accounts, on either side, under every model and policy, each into a folder of its own below `out`,
    going on where an earlier run was interrupted. `told` is called with the model, epochs done and in all."""
    found: dict[str, Found] = {}
    for side, sign in SIDES.items():
        given = carried_back(folder, side=sign)
        book, market = given.read()
        found[side] = {}
        for name, (preset, settings) in MODELS.items():
            model = variant(settings, preset=preset)
            for calls in CALLS:
                place = out / f"epochs_{side}_{name}_{calls}"
                progress = None if told is None else partial(told, f"{side}, {name}, {calls}")
                found[side][name, calls] = replay(
                    book, market, given.bars, model, out=place, calls=calls, every=6, go_on=True, progress=progress
                )
    return given, found


def report(given: Carried, found: Mapping[str, Found]) -> str:
    """What was asked, called and lost through time, and in all, as Markdown; amounts in USD million."""
    parts = [f"{_facts(given)}\n"]
    for side, each in found.items():
        parts.append(f"### The positions {side}, hour by hour\n\n{hours(each)}\n\n{totals(each)}\n")
    return "\n".join(parts)


def hours(found: Found) -> str:
    """The hours around the crash, a row each."""
    rows: dict[str, list[str]] = {}
    for time in found["dynamic", "paid"].epochs["time"]:
        if not CRASH - 5 * HOUR <= time <= CRASH + 6 * HOUR:
            continue
        cells = []
        for name in MODELS:
            paid, closed = (
                found[name, calls].epochs.row(by_predicate=pl.col("time") == time, named=True) for calls in CALLS
            )
            cells += [
                f"{paid['initial_margin'] / MILLION:.1f}",
                f"{paid['below_maintenance']}, {paid['call'] / MILLION:.2f}",
                f"{(paid['expected_bad_debt'] or 0.0) / MILLION:.3f}",
                f"{closed['closed']}, {closed['written_off'] / MILLION:.2f}",
            ]
        rows[f"{time:%d %H:%M}"] = cells
    titles = [f"{name}: {what}" for name in MODELS for what in ("initial", "calls", "bad debt", "closed")]
    return markdown(titles, rows).replace("| model |", "| October, UTC |", 1)


def totals(found: Found) -> str:
    """What each model came to over all epochs."""
    rows = {}
    for name in MODELS:
        paid, closed = (found[name, calls].epochs for calls in CALLS)
        before = paid.filter(pl.col("time") < CRASH)
        first, level = paid["initial_margin"][0], before["initial_margin"][-1]
        after = paid.filter(pl.col("time") >= CRASH)
        top = float(after["initial_margin"].to_numpy().max())
        crash = paid.filter(pl.col("time") == CRASH)
        rows[name] = [
            f"{first / MILLION:.1f}",
            f"{level / MILLION:.1f}",
            f"{crash['initial_margin'][0] / MILLION:.1f}",
            f"{top / MILLION:.1f}",
            f"{paid['initial_margin'][-1] / MILLION:.1f}",
            f"{_sum(paid, 'call') / MILLION:.1f}",
            f"{_sum(after, 'call') / MILLION:.1f}",
            f"{closed['closed'].sum()}",
            f"{_sum(closed, 'written_off') / MILLION:.2f}",
        ]
    titles = [
        "initial at first", "before the hour", "after it", "highest from then on", "at the end", "calls paid",
        "of them from the hour on", "accounts closed", "written off",
    ]  # fmt: skip
    return markdown(titles, rows)


def through(found: Found) -> pl.DataFrame:
    """time, model, figure, value (USD million): what a picture shows."""
    parts = []
    for name in MODELS:
        paid, closed = (found[name, calls].epochs for calls in CALLS)
        parts.append(
            pl.DataFrame(
                {
                    "time": paid["time"],
                    "initial margin": paid["initial_margin"] / MILLION,
                    "calls paid so far": paid["call"].cum_sum() / MILLION,
                    "written off so far": closed["written_off"].cum_sum() / MILLION,
                }
            )
            .unpivot(index="time", variable_name="figure", value_name="value")
            .with_columns(model=pl.lit(name))
        )
    return pl.concat(parts)


def _sum(rows: pl.DataFrame, name: str) -> float:
    return float(rows[name].to_numpy().sum())


def _facts(given: Carried) -> str:
    held = given.book["positions"].join(
        given.market["quotes"].select("instrument_id", "mark_price"), on="instrument_id"
    )
    held = held.with_columns(value=(pl.col("quantity") * pl.col("mark_price")).abs())
    own = given.book["instruments"].with_columns(proxied=pl.col("underlying").is_in(list(given.without)))
    by = held.join(own.select("instrument_id", "proxied"), on="instrument_id")
    gross, proxied = by["value"].sum(), by.filter("proxied")["value"].sum()
    accounts, equity = held["account_id"].n_unique(), given.book["balances"]["amount"].sum()
    return (
        f"{accounts} accounts, {held.height:,} positions in {own.height} coins, gross {gross / MILLION:,.0f}, equity "
        f"{equity / MILLION:,.0f} at the start; {len(given.without)} coins without bars are {proxied / gross:.0%} of "
        "the gross."
    )
