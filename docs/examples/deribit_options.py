"""Real option chains against the engine: BTC and ETH options of Deribit, priced, differentiated, and put on a smile.

Snapshots of whole chains become tables. Every option is repriced from its own implied volatility and its expiry's
forward and compared with the exchange's mark; so are delta and vega; every second strike is held out of its smile and
read back from it; and the moves of implied volatility are set against those of the price. The data is looked for in
$MARGINAX_SHARED (default: `../shared`). Margins of option books on these chains: `option_days.py`.

    python docs/examples/deribit_options.py [--shared DIR] [--out DIR]

Conventions: marks are in coins, for an option on one coin; time to expiry runs from the snapshot, in years of 365 days;
errors of marks are in millionths of a coin, volatilities in points of 1 % a year.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import polars as pl
from real_accounts import SHARED, closes, newest, show
from volatility_moves import volatility_moves

import marginax as mx
from marginax.chains import market_chains
from marginax.option_table import option_table
from marginax.smiles import Smile, calendar_violations, fit_smile
from marginax_kernels import black76

CHAINS = "deribit_*chain_*_to_*.parquet"
YEAR = 365 * 86_400e6
"""Microseconds."""
EXPIRY_HOUR = 8
KINDS = {"C": "call", "P": "put"}
BOUND = 3e-4
"""Coins: what 99 % of the options are to be within."""
QUANTILES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "largest": 1.0}


def named(name: pl.Expr) -> list[pl.Expr]:
    """What an instrument's name says: BTC-27MAR26-90000-C, XRP_USDC-27MAR26-0d55-P; a `d` is the decimal point."""
    part = name.str.split("-")
    day = part.list.get(1).str.zfill(7).str.to_datetime("%d%b%y", time_unit="us", time_zone="UTC")
    return [
        part.list.get(0).alias("currency"),
        (day + pl.duration(hours=EXPIRY_HOUR)).alias("expiry"),
        part.list.get(2).str.replace("d", ".", literal=True).cast(pl.Float64).alias("strike"),
        part.list.get(3).replace_strict(KINDS, return_dtype=pl.String).alias("option_type"),
    ]


def chains(shared: Path) -> pl.DataFrame:
    """Every quote of the newest file of snapshots, in order; what the names say agrees with the columns.

    `forward` is the price of an expiry's future in the snapshot: rows of one expiry differ by what happened while the
    snapshot was taken, so all get the median. The index likewise.
    """
    rows = newest(shared / "data" / "options", CHAINS)
    read = rows.select(named(pl.col("instrument_name")))
    for column in read.columns:
        wrong = rows.filter(read[column] != rows[column])
        if wrong.height:
            raise ValueError(f"{wrong['instrument_name'][0]} is not what its column {column!r} says")
    expiry = ["snapshot_time", "currency", "expiry"]
    return rows.with_columns(
        forward=pl.col("underlying_price").median().over(expiry),
        index=pl.col("index_price").median().over(expiry[:2]),
        years=(pl.col("expiry") - pl.col("snapshot_time")).dt.total_microseconds() / YEAR,
    ).sort(*expiry, "strike", "option_type")


def snapshots(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """One chain after the other."""
    yield from rows.partition_by("snapshot_time", maintain_order=True)


def tables_of(chain: pl.DataFrame, history: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The tables of a market and of its instruments, as a snapshot left them; nothing in them is later."""
    now, coins = chain["snapshot_time"][0], chain["currency"].unique().implode()
    upto = pl.col("underlying").is_in(coins) & (pl.col("time") <= now.replace(tzinfo=None))
    return {
        "instruments": chain.select(
            instrument_id="instrument_name",
            kind="option_type",
            underlying="currency",
            quote=pl.lit("USD"),
            settlement=pl.lit("inverse"),
            multiplier=pl.lit(1.0),
            strike="strike",
            expiry="expiry",
        ),
        "quotes": chain.select(
            instrument_id="instrument_name", mark_price="mark", implied_vol="mark_iv", time="snapshot_time"
        ),
        "underlyings": chain.group_by("currency", maintain_order=True).agg(
            pl.col("index").first().alias("index_price"), pl.col("snapshot_time").first().alias("time")
        ).rename({"currency": "underlying"}),
        "forwards": chain.group_by(pl.col("currency").alias("underlying"), "expiry", maintain_order=True).agg(
            pl.col("forward").first(), pl.col("snapshot_time").first().alias("time")
        ),
        "history": history.filter(upto),
    }  # fmt: skip


def market_of(tables: dict[str, pl.DataFrame]) -> mx.Market:
    """The market in these tables."""
    names = ("quotes", "underlyings", "forwards", "history")
    return mx.read_market(**{name: tables[name] for name in names if name in tables})


def priced(chain: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """The chain with what the engine makes of it: model price, Greeks, and the forward of put-call parity.

    The columns of the engine have their own names; the exchange's delta and vega are `delta_venue` and `vega_venue`.
    """
    tables = tables_of(chain, history)
    nobody = {"account_id": ["nobody"], "instrument_id": [chain["instrument_name"][0]], "quantity": [0.0]}
    cash = pl.DataFrame({"account_id": ["nobody"], "asset": ["USD"], "amount": [0.0]})
    book = mx.read_book(instruments=tables["instruments"], positions=pl.DataFrame(nobody), balances=cash)
    market = market_of(tables)
    found = market_chains(book.instruments, market)
    ours = option_table(book.instruments, market, found).with_columns(parity=found.expiries.parity[found.expiry])
    ours = ours.select("instrument_id", "forward_source", "model_price", "parity", "delta", "gamma", "vega")
    venue = chain.rename({"delta": "delta_venue", "vega": "vega_venue"})
    return venue.join(ours, left_on="instrument_name", right_on="instrument_id", maintain_order="left")


def value(rows: pl.DataFrame, forward: str, years: str = "years") -> np.ndarray:
    """Marks of options by Black-76 on a column of forwards and one of times, in coins."""
    on = rows[forward].to_numpy()
    with jax.enable_x64(True):
        worth = black76(
            on,
            rows["strike"].to_numpy(),
            rows["mark_iv"].to_numpy() * np.sqrt(rows[years].to_numpy()),
            call=(rows["option_type"] == "call").to_numpy(),
        )
    return np.asarray(worth) / on


def spread(what: str, errors: np.ndarray, unit: float = 1.0) -> dict[str, object]:
    """A row of quantiles of sizes."""
    sizes = np.abs(errors[np.isfinite(errors)]) / unit
    return {"": what} | {name: float(np.quantile(sizes, q)) for name, q in QUANTILES.items()}


def repricing(rows: pl.DataFrame) -> pl.DataFrame:
    """How far model prices are from marks, by what they stand on.

    The last column is the share that half a digit of the exchange's volatility, and of its mark, can explain.
    """
    marks = rows["mark"].to_numpy()
    errors = {
        "one forward an expiry": rows["model_price"].to_numpy() - marks,
        "each row's own forward": value(rows, "underlying_price") - marks,
        "forward of put-call parity": value(rows, "parity") - marks,
        "one forward, coarse time": value(rows, "forward", "tau_years") - marks,
    }
    digit = (rows["vega"] / rows["forward"]).to_numpy() * 0.5e-4 + 0.5e-6
    found = pl.DataFrame([spread(name, error, 1e-6) for name, error in errors.items()])
    return found.with_columns(
        pl.Series("% within 300", [100 * float(np.mean(np.abs(error) <= BOUND)) for error in errors.values()]),
        pl.Series("% in rounding", [100 * float(np.mean(np.abs(error) <= digit)) for error in errors.values()]),
    )


def greeks(rows: pl.DataFrame) -> pl.DataFrame:
    """How far delta and vega are from the exchange's, and how far the exchange's are from one another.

    At one strike the deltas of call and put differ by exactly one and their vegas not at all, if both are of the same
    moment. Delta is in thousandths, vega in USD for a point of volatility.
    """
    key = ["snapshot_time", "currency", "expiry", "strike"]
    calls, puts = (rows.filter(pl.col("option_type") == kind) for kind in ("call", "put"))
    both = calls.join(puts.select(*key, "delta_venue", "vega_venue"), on=key, suffix="_put")
    apart = {name: (both[f"{name}_venue"] - both[f"{name}_venue_put"]).to_numpy() for name in ("delta", "vega")}
    return pl.DataFrame(
        [
            spread("delta", (rows["delta"] - rows["delta_venue"]).to_numpy(), 1e-3),
            spread("exchange: call less put less 1", apart["delta"] - 1, 1e-3),
            spread("vega", (rows["vega"] / 100 - rows["vega_venue"]).to_numpy()),
            spread("exchange: call less put", apart["vega"]),
        ]
    )


def curve(expiry: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, float]:
    """Log-moneyness and volatility by strike, and the years left; call and put of one strike are averaged."""
    by_strike = expiry.group_by("strike").agg(pl.col("mark_iv").mean(), pl.col("forward").first()).sort("strike")
    place = (by_strike["strike"] / by_strike["forward"]).log()
    return place.to_numpy(), by_strike["mark_iv"].to_numpy(), float(expiry["years"][0])


def held_out(rows: pl.DataFrame) -> pl.DataFrame:
    """Every second strike, read from the smile through the others: errors of volatility and of the mark.

    `inside` are strikes between those kept; the others lie beyond the last of them.
    """
    found = []
    for expiry in rows.partition_by("snapshot_time", "currency", "expiry", maintain_order=True):
        place, volatility, years = curve(expiry)
        if len(place) < 4:
            continue
        read = fit_smile(place[::2], volatility[::2], years).at(place[1::2])
        found.append(
            pl.DataFrame({"place": place[1::2], "known": volatility[1::2], "read": read}).with_columns(
                days=pl.lit(365 * years), inside=pl.Series(place[1::2] < place[::2][-1])
            )
        )
    left = pl.concat(found)
    place, root = left["place"].to_numpy(), np.sqrt(left["days"].to_numpy() / 365)
    with jax.enable_x64(True):
        marks = [
            np.asarray(black76(1.0, np.exp(place), left[name].to_numpy() * root, call=place > 0))
            for name in ("read", "known")
        ]
    return left.with_columns(
        points=100 * (pl.col("read") - pl.col("known")).abs(), coins=pl.Series(np.abs(marks[0] - marks[1]))
    )


def by_expiry(left: pl.DataFrame) -> pl.DataFrame:
    """The errors of `held_out` by the days to expiry; the last row is of strikes beyond all others."""
    limits = np.array([1, 7, 30, 90, 180])
    names = ["under 1 day", *(f"to {day} days" for day in limits[1:]), "longer"]
    group = np.where(left["inside"], np.digitize(left["days"], limits), len(names))
    points, millionths = pl.col("points"), 1e6 * pl.col("coins")
    table = left.group_by(group=pl.Series(group)).agg(
        strikes=pl.len(),
        **{"median, points": points.median(), "99 %, points": points.quantile(0.99, "linear")},
        **{"median, coin/1e6": millionths.median(), "99 %, coin/1e6": millionths.quantile(0.99, "linear")},
    )
    labels = pl.Series([*names, "beyond the last kept"])
    return table.sort("group").select(pl.Series("", labels.gather(table["group"].sort())), pl.exclude("group"))


def smiles(chain: pl.DataFrame) -> dict[str, list[Smile]]:
    """The smiles of a snapshot by coin, the nearest expiry first."""
    return {
        str(coin): [fit_smile(*curve(expiry)) for expiry in mine.partition_by("expiry", maintain_order=True)]
        for (coin,), mine in chain.group_by("currency", maintain_order=True)
    }


def main(shared: Path, out: Path) -> None:
    """Price every snapshot, say how far from the exchange that is, and write the priced chains down."""
    quotes, history = chains(shared), closes(shared)
    rows = pl.concat([priced(chain, history) for chain in snapshots(quotes)])
    times, coins = rows["snapshot_time"].unique().sort(), rows["currency"].unique().sort().to_list()
    print(f"{rows.height:,} quotes of {rows['instrument_name'].n_unique():,} options on {' and '.join(coins)}")
    print(f"{len(times)} snapshots, {times[0]:%Y-%m-%d %H:%M} to {times[-1]:%Y-%m-%d %H:%M} UTC")
    show("Model price less mark, size, in millionths of a coin", repricing(rows))
    expiries = rows.unique(["snapshot_time", "currency", "expiry"])
    off = spread("", 1e4 * (expiries["forward"] / expiries["parity"] - 1).to_numpy())
    print(f"forwards shown and of parity: {off['median']:.2f} bp apart in the median, {off['largest']:.1f} at most")
    far = rows.filter((pl.col("model_price") - pl.col("mark")).abs() > BOUND)
    if far.height:
        when, count = far["snapshot_time"].value_counts(sort=True).row(0)
        deep = 100 * far.select((pl.col("delta_venue").abs() > 0.75).mean()).item()
        print(f"{far.height} are beyond 300: {count} of them at {when:%Y-%m-%d %H:%M}, {deep:.0f} % deep in the money")
    show("Greeks less the exchange's, size: delta in thousandths, vega in USD a point", greeks(rows))

    show("Every second strike, read from the smile through the others", by_expiry(held_out(rows)))
    surfaces = {chain["snapshot_time"][0]: smiles(chain) for chain in snapshots(rows)}
    every = [surface for surface_by_coin in surfaces.values() for surface in surface_by_coin.values()]
    fitted = [smile for surface in every for smile in surface]
    print(
        f"smiles of all strikes: {len(fitted)}, {sum(smile.butterfly_free for smile in fitted)} without butterfly "
        f"arbitrage; {sum(len(calendar_violations(surface)) for surface in every)} calendar violations"
    )
    fits = spread("", np.array([100 * smile.rms for smile in fitted]))
    print(f"they pass the quotes at {fits['median']:.2f} points in the median, {fits['largest']:.1f} at most")
    moves = volatility_moves(rows, surfaces, shared)
    if moves.height:
        show("Log moves of 30-day volatility on those of the price", moves)
    settings = mx.load_config()
    beta, residual = settings.volatility.beta, 100 * settings.volatility.residual
    safety = settings.proxy.safety_factor
    print(f"without a history: beta {beta:g}, residual {residual:g} % a day, times {safety:g} for safety")

    out.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(out / "priced.parquet")
    print(f"\nthe chains with model prices, parity forwards and Greeks: {out}/priced.parquet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Real option chains against the engine's prices, Greeks and smiles.")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder above data/")
    parser.add_argument("--out", type=Path, default=Path("out/deribit_options"), help="where results go")
    main(**vars(parser.parse_args()))
