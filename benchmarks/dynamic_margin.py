"""What the dynamic margin costs beside the plain one: a pass over three kinds of book, and a new bar of 500 factors.

Both models take 1,000 filtered scenarios, VaR and ES at 1 % and a charge at 2.5 %, in float32 on all cores; the
dynamic ones have 250 stressed scenarios beside. `preset` is the preset `dynamic`, `every_part` has the correlation
break and the tools too, `without_dependence` neither those nor what closing and prices cost. All ask the whole-book
kernel for tails; `tile_by_tile` is `every_part` as a model has it that sees losses. `lone` holds one position in each
of seven coins, `linear` two in one of them for three accounts in ten, `options` eight options on each of three coins.
Passes are timed in turn, medians told; the dependence charge is checked against a loop that masks every underlying
before any clock starts. `profile` has the seconds of `every_part` by what is asked, from passes of their own: tails by
question, and `costs` for what needs no loss.
"""

import sys
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import jax
import numpy as np
import polars as pl

import marginax as mx
from benchmarks.context import context, seconds
from marginax.config import parse_config
from marginax.engine.margin_book import _prepare
from marginax.engine.tail_pass import ChunkHolders, TailPass, book_pass
from marginax.engine.tile_pass import TilePass
from marginax.exposures import expose
from marginax.sections import Engine
from marginax.synthetic import venue
from marginax_kernels import expected_shortfall

ACCOUNTS, REPEATS, FACTORS, BARS = 10_000, 9, 500, 1_000
PLAIN: dict[str, Any] = {"risk": {"tail": 0.01, "charge_tail": 0.025}, "scenarios": {"window": 1_000}}
PARTS: dict[str, Any] = {
    **PLAIN,
    "model": "dynamic",
    "filter": {"kind": "two_speed", "bound": 4.0},
    "correlation": {"follow": True},
    "stress_period": {"weight": 0.25},
    "correlation_break": {"multiplier": 1.0},
    "collateral": {"limits": {"USDT": 1e6}, "sizes": {"USDT": 1e5}, "wrong_way": 0.1},
}
EVERY: dict[str, Any] = {
    **PARTS,
    "dependence": {"share": 0.05},
    "procyclicality": {"buffer": 0.25, "rise_limit": 0.5},
    "liquidity": {"spread": 1.0, "fee": 0.0005, "impact": 1.0, "vega_share": 0.003, "participation": 0.1},
    "oracle": {"confidence_weight": 1.0, "z": 2.33},
}
MODELS: dict[str, Any] = {"plain": PLAIN, "preset": None, "without_dependence": PARTS, "every_part": EVERY}


def run() -> dict[str, Any]:
    """The benchmark's record."""
    figures = {name: _book(*tables) for name, tables in _books().items()}
    return {
        "benchmark": "dynamic_margin",
        "accounts": ACCOUNTS,
        "dtype": "float32",
        "context": context(),
        "figures": {**figures, "new_bar": _new_bar()},
    }


def _books() -> dict[str, tuple[mx.Book, mx.Market]]:
    """Random books on the demo venue, each with dollars and a stablecoin for collateral."""
    rng = np.random.default_rng(11)
    made = venue(accounts=100).tables
    market = mx.read_market(**{name: made[name] for name in ("quotes", "underlyings", "history", "forwards")})
    kinds = made["instruments"].with_columns(option=pl.col("kind").is_in(["call", "put"]))
    linear, options = (
        [part["instrument_id"].to_list() for part in kinds.filter(option=flag).partition_by("underlying")]
        for flag in (False, True)
    )
    accounts = [f"account {k:05d}" for k in range(ACCOUNTS)]
    rows: dict[str, list[tuple[str, str, float]]] = {"lone": [], "linear": [], "options": []}
    for account in accounts:
        coins = [linear[k] for k in rng.choice(len(linear), 7, replace=False)]
        names = [str(rng.choice(ids)) for ids in coins]
        if rng.random() < 0.3:
            names.append(next(name for name in coins[0] if name != names[0]))
        held = [(account, name, float(rng.normal())) for name in names]
        rows["lone"] += held[: len(coins)]
        rows["linear"] += held
        for k in rng.choice(len(options), 3, replace=False):
            chosen = rng.choice(options[k], 8, replace=False)
            rows["options"] += [(account, str(name), float(rng.normal())) for name in chosen]
    money = [(account, asset, 1e4) for account in accounts for asset in ("USD", "USDT")]
    balances = pl.DataFrame(money, schema=["account_id", "asset", "amount"], orient="row")
    schema = ["account_id", "instrument_id", "quantity"]
    return {
        name: (
            mx.read_book(
                instruments=made["instruments"],
                positions=pl.DataFrame(held, schema=schema, orient="row"),
                balances=balances,
            ),
            market,
        )
        for name, held in rows.items()
    }


def _book(book: mx.Book, market: mx.Market) -> dict[str, Any]:
    everyone, passes, figures = np.arange(ACCOUNTS), {}, {}
    for name, values in MODELS.items():
        model = mx.load_model("dynamic" if values is None else parse_config(values, name))
        with jax.enable_x64(True):
            history = model.factors(market, book.instruments)
            exposures = expose(book, market, history)
            state, draws = model.observe(history), model.draw(7, history)

            def prepare(model: Any = model, exposures: Any = exposures, state: Any = state, draws: Any = draws) -> Any:
                made = _prepare(model, exposures.instruments, exposures.market, state, draws)
                return jax.block_until_ready(made)[0]

            prepared, cost = prepare(), seconds(prepare, repeats=3)["median"]
        passes[name] = book_pass(model, prepared, exposures, Engine())
        started = perf_counter()
        passes[name].compile(everyone)
        figures[name] = {"prepare_seconds": cost, "compile_seconds": perf_counter() - started}
        if name == "every_part":
            groups = _check(passes[name], prepared, exposures)
            passes["tile_by_tile"], figures["tile_by_tile"] = TilePass(model, prepared, exposures, Engine()), {}
            passes["tile_by_tile"].compile(everyone)
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(REPEATS):
        for name, each in passes.items():
            started = perf_counter()
            for _ in each.margins(everyone):
                pass
            times[name].append(perf_counter() - started)
    for name, taken in times.items():
        cost = float(np.median(taken))
        over = [one / plain for one, plain in zip(taken, times["plain"], strict=True)]
        figures[name] |= {"seconds": cost, "over_plain": float(np.median(over))}
    profile = _profile(passes["every_part"], everyone)
    return {"positions": len(exposures.positions.columns) / ACCOUNTS, "groups_an_account": groups, **figures,
            "profile": profile}  # fmt: skip


def _profile(each: TailPass | TilePass, everyone: np.ndarray) -> dict[str, float]:
    """Median seconds of a pass by question; the rest is sums over groups and parts, on the host."""
    taken: dict[str, float] = {}
    plain = ChunkHolders.tails, ChunkHolders.costs

    def timed(name: str, call: Any, *given: Any) -> Any:
        started = perf_counter()
        answer = call(*given)
        taken[name] = taken.get(name, 0.0) + perf_counter() - started
        return answer

    runs = []
    ChunkHolders.tails = lambda self, question, *held: timed(question, plain[0], self, question, *held)  # type: ignore
    ChunkHolders.costs = lambda self, groups: timed("costs", plain[1], self, groups)  # type: ignore[method-assign]
    for _ in range(REPEATS):
        taken.clear()
        timed("pass", list, each.margins(everyone))
        runs.append(dict(taken))
    ChunkHolders.tails, ChunkHolders.costs = plain  # type: ignore[method-assign]
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def _check(each: TailPass | TilePass, prepared: Any, exposures: Any) -> float:
    """Compare the dependence charge of some accounts with one that masks every underlying; groups an account."""
    some = np.arange(0, ACCOUNTS, 50)
    cube = np.asarray(prepared.cube[:, : prepared.main])
    weights = np.asarray(prepared.weights[: prepared.main])
    shortfall = jax.jit(expected_shortfall, static_argnames="tail")
    groups = 0
    for part, (margin, _) in each.margins(some):
        charge = margin.parts.values[margin.parts.names.index("dependence")][: len(part.accounts)]
        for k, account in enumerate(part.accounts):
            entries = [
                (int(held.columns[e]), float(held.amounts[e]))
                for held in (exposures.positions, exposures.collateral)
                for e in range(held.starts[account], held.starts[account] + held.counts[account])
            ]
            own: dict[int, np.ndarray] = {}
            for row, amount in entries:
                group = int(exposures.groups[row])
                own[group] = own.get(group, 0) - amount * cube[row]
            sizes = [float(shortfall(loss, weights, tail=0.025)) for loss in (*own.values(), sum(own.values()))]
            wanted = 0.05 * max(sum(sizes[:-1]) - sizes[-1], 0)
            gross = sum(abs(amount) * np.abs(cube[row]).max() for row, amount in entries)
            if abs(float(charge[k]) - wanted) > 1e-5 * gross:
                sys.exit(
                    "the dependence charge differs from the masked one by more than rounding; no clock was started"
                )
            counts = np.bincount([int(exposures.groups[row]) for row, _ in entries])
            groups += int((counts > 1).sum())
    return groups / len(some)


def _new_bar() -> dict[str, Any]:
    """500 underlyings, a perpetual on each, 10,000 accounts: the state one bar on, and margins from it."""
    rng = np.random.default_rng(5)
    names = [f"COIN{k:03d}" for k in range(FACTORS)]
    last = datetime(2026, 1, 1, tzinfo=UTC)
    times = [last - timedelta(days=k) for k in range(BARS, -1, -1)]
    walks = np.exp(
        np.cumsum(0.03 * (rng.standard_normal((BARS + 1, 1)) + rng.standard_normal((BARS + 1, FACTORS))), axis=0)
    )
    history = pl.DataFrame({"time": times, **dict(zip(names, walks.T, strict=True))}).unpivot(
        index="time", variable_name="underlying", value_name="price"
    )
    perpetuals = [f"{name}-PERP" for name in names]
    instruments = pl.DataFrame({"instrument_id": perpetuals, "underlying": names}).with_columns(
        kind=pl.lit("perpetual"), quote=pl.lit("USD"), settlement=pl.lit("linear"), multiplier=pl.lit(1.0)
    )
    accounts = [f"account {k:05d}" for k in range(ACCOUNTS)]
    held = [
        (account, str(name), float(rng.normal()))
        for account in accounts
        for name in rng.choice(perpetuals, 8, replace=False)
    ]
    book = mx.read_book(
        instruments=instruments,
        positions=pl.DataFrame(held, schema=["account_id", "instrument_id", "quantity"], orient="row"),
        balances=pl.DataFrame({"account_id": accounts, "asset": ["USD"] * ACCOUNTS, "amount": [1e3] * ACCOUNTS}),
    )

    def bar(time: datetime, prices: np.ndarray) -> dict[str, pl.DataFrame]:
        quotes = pl.DataFrame({"instrument_id": perpetuals, "mark_price": prices, "time": time})
        return {
            "quotes": quotes,
            "underlyings": pl.DataFrame({"underlying": names, "index_price": prices, "time": time}),
        }

    market = mx.read_market(**bar(last, walks[-1]), history=history)
    live = mx.follow(book, market, "dynamic")
    live.margins()
    steps, margins = [], []
    for k in range(REPEATS + 1):
        prices = live.market.underlyings["index_price"].to_numpy() * np.exp(0.03 * rng.standard_normal(FACTORS))
        given = bar(last + timedelta(days=k + 1), prices)
        started = perf_counter()
        live = live.after(**given)
        steps.append(perf_counter() - started)
        result = live.margins()
        margins.append(perf_counter() - started - steps[-1])
    times = np.array([steps[1:], margins[1:]])
    return {
        "factors": FACTORS,
        "step_seconds": float(np.median(times[0])),
        "margin_seconds": float(np.median(times[1])),
        "seconds": float(np.median(times.sum(axis=0))),
        "of_which": result.manifest["seconds"],
    }
