"""A seeded book of option accounts on a snapshot of real chains: who holds what, and what it is worth at later marks.

Strangles, straddles, covered calls, spreads, calendars, bought protection, hedged straddles and market makers, on
options chosen by their delta, with collateral in coins or dollars. What becomes of such books: `option_days.py`.

Conventions: money in USD. Options are paid upfront in coins; perpetuals are inverse, and stand at the index, for lack
of quotes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from deribit_options import market_of, tables_of

import marginax as mx

CONTRACT = {"BTC": 10.0}
"""USD of one perpetual; 1 for other coins, as the exchange has it."""
KINDS = ("call", "put")
STRATEGIES = (
    "short strangle",
    "long straddle",
    "covered call",
    "spread",
    "calendar",
    "protective put",
    "hedged straddle",
    "market maker",
)


@dataclass(frozen=True)
class Shelf:
    """The options of one coin: by expiry and kind, their names and deltas; expiries rise."""

    coin: str
    index: float
    expiries: list[Any]
    options: dict[Any, tuple[np.ndarray, np.ndarray]]

    def pick(self, expiry: int, kind: str, delta: float) -> tuple[str, float]:
        """The option whose delta is nearest in size, and its delta."""
        names, deltas = self.options[self.expiries[expiry], kind]
        nearest = int(np.argmin(np.abs(np.abs(deltas) - delta)))
        return str(names[nearest]), float(deltas[nearest])


def shelves(chain: pl.DataFrame) -> list[Shelf]:
    """What can be bought at a snapshot."""
    found = []
    for (coin,), mine in chain.group_by("currency", maintain_order=True):
        groups = mine.group_by("expiry", "option_type", maintain_order=True)
        options = {key: (each["instrument_name"].to_numpy(), each["delta"].to_numpy()) for key, each in groups}
        expiries = [time for time in mine["expiry"].unique().sort() if all((time, k) in options for k in KINDS)]
        found.append(Shelf(str(coin), mine["index"][0], expiries, options))
    return found


def legs(strategy: str, shelf: Shelf, rng: np.random.Generator) -> list[tuple[str, float, float]]:
    """Name, delta and signed quantity of every option held."""
    size = round(float(np.exp(rng.normal(1, 1))), 1) + 0.1
    near, far = np.sort(rng.choice(len(shelf.expiries), 2, replace=False)).tolist()
    kind, side = str(rng.choice(KINDS)), float(rng.choice([-1, 1]))

    def option(expiry: int, kind: str, delta: float, quantity: float) -> tuple[str, float, float]:
        return (*shelf.pick(expiry, kind, delta), quantity)

    if strategy == "market maker":
        count = int(rng.integers(24, 61))
        wanted = zip(
            rng.integers(len(shelf.expiries), size=count),
            rng.choice(KINDS, count),
            rng.uniform(0.05, 0.7, count),
            np.round(size * rng.normal(size=count), 1),
            strict=True,
        )
        return [option(int(expiry), str(k), float(delta), float(amount)) for expiry, k, delta, amount in wanted]
    return {
        "short strangle": [option(near, "call", 0.25, -size), option(near, "put", 0.25, -size)],
        "long straddle": [option(near, "call", 0.5, size), option(near, "put", 0.5, size)],
        "covered call": [option(near, "call", 0.3, -size)],
        "spread": [option(near, kind, 0.7, side * size), option(near, kind, 0.2, -side * size)],
        "calendar": [option(near, kind, 0.5, -side * size), option(far, kind, 0.5, side * size)],
        "protective put": [option(near, "put", 0.25, size)],
        "hedged straddle": [option(near, "call", 0.5, -size), option(near, "put", 0.5, -size)],
    }[strategy]


def book_of(chain: pl.DataFrame, accounts: int, seed: int) -> dict[str, pl.DataFrame]:
    """The tables of a seeded book on a snapshot: positions, balances, perpetuals, and each account's strategy."""
    rng, stock = np.random.default_rng(seed), shelves(chain)
    positions, balances, strategies = [], [], []
    for k in range(accounts):
        strategy, shelf = STRATEGIES[k % len(STRATEGIES)], stock[int(rng.integers(len(stock)))]
        account, held = f"account-{k + 1:04d}", legs(strategy, shelf, rng)
        gross = sum(abs(quantity) for _, _, quantity in held)
        positions += [(account, name, quantity, None) for name, _, quantity in held]
        if strategy in ("hedged straddle", "market maker"):
            delta = sum(delta * quantity for _, delta, quantity in held)
            hedge = -round(delta * shelf.index / CONTRACT.get(shelf.coin, 1.0))
            positions.append((account, f"{shelf.coin}-PERPETUAL", float(hedge), shelf.index))
        covers = strategy in ("covered call", "protective put")
        coins = gross * (1.1 if covers else float(rng.uniform(0.1, 0.6)))
        in_coin = covers or rng.random() < 0.5
        balances.append((account, shelf.coin if in_coin else "USD", coins * (1 if in_coin else shelf.index)))
        strategies.append((account, strategy, gross * shelf.index))
    perpetuals = [
        (f"{each.coin}-PERPETUAL", "perpetual", each.coin, "USD", "inverse", CONTRACT.get(each.coin, 1.0), each.index)
        for each in stock
    ]
    names = ("instrument_id", "kind", "underlying", "quote", "settlement", "multiplier", "mark_price")
    columns = ("account_id", "instrument_id", "quantity", "entry_price")
    held = pl.DataFrame(positions, schema=columns, orient="row").cast({"entry_price": pl.Float64})
    merged = held.group_by("account_id", "instrument_id", maintain_order=True)
    return {
        "positions": merged.agg(pl.col("quantity").sum(), pl.col("entry_price").first()),
        "balances": pl.DataFrame(balances, schema=("account_id", "asset", "amount"), orient="row"),
        "perpetuals": pl.DataFrame(perpetuals, schema=names, orient="row"),
        "strategies": pl.DataFrame(strategies, schema=("account_id", "strategy", "notional"), orient="row"),
    }


def venue_of(chain: pl.DataFrame, history: pl.DataFrame, book: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """All tables of a run: the snapshot's, with the perpetuals, and the book's."""
    tables, perpetuals = tables_of(chain, history), book["perpetuals"]
    listed = [tables["instruments"], perpetuals.drop("mark_price")]
    quoted = [tables["quotes"], perpetuals.select("instrument_id", "mark_price")]
    return {
        **tables,
        "instruments": pl.concat(listed, how="diagonal"),
        "quotes": pl.concat(quoted, how="diagonal"),
        "positions": book["positions"],
        "balances": book["balances"],
    }


def read(tables: dict[str, pl.DataFrame]) -> tuple[mx.Book, mx.Market]:
    """Book and market in these tables."""
    names = ("instruments", "positions", "balances")
    return mx.read_book(**{name: tables[name] for name in names}), market_of(tables)


def worth(book: dict[str, pl.DataFrame], marks: pl.DataFrame, index: dict[str, float]) -> pl.DataFrame:
    """What each account is worth at marks (options, in coins) and index prices."""
    perpetuals = book["perpetuals"].select("instrument_id", "underlying", "multiplier")
    held = (
        book["positions"]
        .join(perpetuals, on="instrument_id", how="left")
        .join(marks, left_on="instrument_id", right_on="instrument_name", how="left")
    )
    price = pl.coalesce("underlying", "currency").replace_strict(index, return_dtype=pl.Float64)
    perpetual = pl.col("multiplier") * (1 / pl.col("entry_price") - 1 / price)
    owned = held.select("account_id", worth=pl.col("quantity") * price * pl.coalesce("mark", perpetual))
    prices = pl.col("asset").replace_strict({**index, "USD": 1.0}, return_dtype=pl.Float64)
    cash = book["balances"].select("account_id", worth=pl.col("amount") * prices)
    # A position without a mark would count as nothing: its account has no worth.
    total = pl.when(pl.col("worth").is_null().any()).then(None).otherwise(pl.col("worth").sum())
    return pl.concat([owned, cash]).group_by("account_id").agg(worth=total).sort("account_id")
