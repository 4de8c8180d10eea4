"""A market followed bar by bar: new prices in, new margins out, without the history that came before.

    live = follow(book, market, "dynamic")
    live.margins()                                     a Result, as `margin_book` gives it
    live = live.after(quotes=..., underlyings=...)     one bar on: O(1) in the length of the history
    live.save("state.npz"); live = resume("state.npz", book, "dynamic")

A bar is a new index price of every underlying and new marks. What a bar leaves out keeps its last price: its volatility
stays as it was, its holders are `stale` once the price is old, and what it did in between comes with its next price. A
state that was saved and resumed gives the same bits as one that was not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
import polars as pl

from marginax.basis import forward_factors
from marginax.book import Book
from marginax.calendars import DAY, DAY_MICROS
from marginax.config import Config
from marginax.engine.compilation import persistent_cache
from marginax.engine.margin_book import Known, Progress, Ready, agree, get_ready, margined
from marginax.engine.result import Result
from marginax.exposures import Exposures, expose
from marginax.history import FactorHistory, settling, volatility_factor, with_settlements, without_settlements
from marginax.instruments import Instruments
from marginax.market import NO_HISTORY, Market, read_market
from marginax.match import Matched, match, rematched
from marginax.models.load import load_model
from marginax.models.protocol import MarginModel
from marginax.problems import BadInput, Problem, suggestion
from marginax.scenarios.carried import Bar
from marginax.sections import Engine
from marginax.tables.door import OnError
from marginax.tables.read import Source

NEW = " of the bar"


@dataclass(frozen=True)
class Bound:
    """A book, what is left of it where it was matched with a market, and what it holds in that market."""

    book: Book
    matched: Matched
    exposures: Exposures


@dataclass(frozen=True)
class LiveMargin:
    """A book, the latest market, and the state of a model; `history` tells of its factors, its rows are the window."""

    book: Book
    market: Market
    model: MarginModel
    history: FactorHistory
    state: Any
    draws: Any
    seed: int

    def __repr__(self) -> str:
        return f"LiveMargin({self.model.name} as of {self.market.as_of:%Y-%m-%d %H:%M}, {len(self.book):,} accounts)"

    def margins(
        self, *, engine: Engine | None = None, on_error: OnError = "raise", progress: Progress | None = None
    ) -> Result:
        """Margins of the book at the latest bar; raises as `margin_book` does."""
        clock = {"started": perf_counter()}
        ready, bound = self.ready(engine=engine, on_error=on_error, clock=clock)
        return margined(ready, bound.matched, bound.exposures, clock=clock, progress=progress)

    def ready(
        self,
        *,
        engine: Engine | None = None,
        on_error: OnError = "raise",
        before: "Bound | None" = None,
        clock: dict[str, float] | None = None,
    ) -> tuple[Ready, "Bound"]:
        """The market ready for a pass, and the book bound to it; of one bound `before`, at other prices, what no price
        changes is taken. Raises as `margins` does."""
        clock = {} if clock is None else clock
        options = self.model.settings.options
        again = before if before is not None and before.book is self.book else None
        matched = None if again is None else rematched(again.matched, self.market, options=options)
        like = None if matched is None or again is None else again.exposures
        if matched is None:
            matched = match(self.book, self.market, model=self.model.name, options=options, on_error=on_error)
        history, draws, settles = self.history, self.draws, _settling(self)
        with jax.enable_x64(True):
            known = self.model.known(self.state)
            if settles:
                history = with_settlements(history, settles)
                known, draws = self.model.with_settlements(known, history), self.model.draw(self.seed, history)
            exposures = expose(matched.book, matched.market, history, options, self.model.settings.funding, like=like)
        clock["bound"] = perf_counter()
        found = Known(history, known, draws, self.seed)
        ready = get_ready(self.model, exposures, found, engine or self.model.settings.engine)
        clock["prepared"] = perf_counter() - ready.tiles.compiling
        return ready, Bound(self.book, matched, exposures)

    def after(
        self,
        *,
        quotes: Source,
        underlyings: Source,
        forwards: Source | None = None,
        order_book: Source | None = None,
        signals: Source | None = None,
        values: Mapping[str, float] | None = None,
        as_of: date | datetime | str | None = None,
        on_error: OnError = "raise",
    ) -> "LiveMargin":
        """The same one bar on; `values` are those of other factors than prices, by name (`implied_vol:BTC`, 0.6), and
        `signals` rows up to the bar, of which those that are new count.

        Raises BadInput for a bar that is not later than the last one, for underlyings that the state does not know, and
        for what the door refuses.
        """
        given = read_market(
            quotes=quotes,
            underlyings=underlyings,
            history=NO_HISTORY,
            forwards=forwards,
            order_book=order_book,
            signals=signals,
            as_of=as_of,
            currency=self.market.currency,
            on_error=on_error,
        )
        self._check(given)
        tables = dict(given.tables)
        for name, key in (("quotes", "instrument_id"), ("underlyings", "underlying")):
            before, new = self.market.tables[name].rows, tables[name].rows
            kept = before.filter(~pl.col(key).is_in(new[key].implode()))
            rows = pl.concat([new, kept.select(new.columns)])
            if name == "underlyings":  # in the order of the factors; what a row leaves out stays as it was
                rows = before.join(rows, on=key, how="left", maintain_order="left", suffix=NEW)
                newest = [name for name in new.columns if name != key]
                rows = rows.select(key, *(pl.coalesce(name + NEW, name).alias(name) for name in newest))
                rows = rows.select(new.columns)
            tables[name] = tables[name].of(rows)
        for name, source in (("forwards", forwards), ("order_book", order_book)):
            if source is None:
                tables[name] = self.market.tables[name]
        market = replace(given, tables=tables)
        return self._stepped(market, given, values or {})

    def at(self, market: Market, *, brought: np.ndarray) -> "LiveMargin":
        """The same one bar on, at a market of the same tables with other prices, checked before; `brought` are the rows
        of `underlyings` whose prices are new."""
        table = market.tables["underlyings"]
        given = replace(market, tables={**market.tables, "underlyings": table.of(table.rows[brought])})
        return self._stepped(market, given, {})

    def with_book(self, book: Book) -> "LiveMargin":
        """The same market with another book: other accounts and positions, contracts that expired taken out.

        Raises BadInput for contracts that the state has no factor of: those listed since it was begun.
        """
        check_factors(book.instruments, self.history)
        return replace(self, book=book)

    def save(self, path: str | Path) -> Path:
        """Write the state into one file, whole or not at all; returns its path. See `resume`."""
        from marginax.engine.live_file import save

        return save(self, Path(path))

    def _check(self, given: Market) -> None:
        now, last = np.datetime64(given.as_of.replace(tzinfo=None), "us"), self.history.times[-1]
        problems = []
        if self.history.grid.bars_after(last, now) < 1:
            when = "is that of the last bar" if now == last else "is no bar of this calendar later than the last, "
            when = "is before the last bar, " if now < last else when
            what = f"{given.as_of:%Y-%m-%d %H:%M} {when}{'' if now == last else _told(last)}"
            problems.append(Problem("as_of", None, None, what, "Give every bar once, in order of time"))
        known = self.history.names[: self.history.underlyings]
        if not given.underlyings.height:
            what, remedy = "brings no price", "Give the index price of one underlying at least"
            problems.append(Problem("underlyings", None, None, what, remedy, table="underlyings"))
        for name in given.underlyings["underlying"]:
            if name not in known:
                what = f"'{name}' is no underlying of the state"
                remedy = f"Follow the market anew with its history, or leave it out; {suggestion(name, list(known))}"
                problems.append(Problem("underlyings", "underlying", None, what, remedy, table="underlyings"))
        if problems:
            raise BadInput(problems)

    def _stepped(self, market: Market, given: Market, values: Mapping[str, float]) -> "LiveMargin":
        """The state with the prices of a bar; `given` are those that the bar itself brings."""
        history = self.history
        now = np.datetime64(market.as_of.replace(tzinfo=None), "us")
        bars = float(history.grid.bars_after(history.times[-1], now))
        walk, level = _walk(history, given, values), _level(history, market)
        days = float((now - history.times[-1]) / DAY)
        signals, brought = history.signals, None
        if signals is not None:
            rows, trading_days = given.tables["signals"].rows, bars / history.grid.bars_per_day
            names, regime = history.names[: history.underlyings], self.model.settings.regime
            signals, brought = signals.stepped(rows, regime, names, now, trading_days=trading_days, days=days)
        bar = Bar(walk, level, np.asarray(bars), np.asarray(days), brought)
        with jax.enable_x64(True):
            state = _step(self.model, self.state, bar)
        seen = np.where(np.isnan(walk), history.last_bar, now)
        times = np.append(history.times[1:], now)
        history = replace(history, times=times, last_bar=seen, level=level, signals=signals)
        return replace(self, market=market, state=state, history=_as_known(history, self.model, state))


def follow(
    book: Book, market: Market, model: str | Path | Config | MarginModel = "dynamic", *, seed: int | None = None
) -> LiveMargin:
    """Begin to follow a market whose history is given once.

    Raises as `margin_book` does, and for a model that cannot be carried forward. Where the market's time is half a bar
    or more after the last bar of its history, its index prices are the next bar.
    """
    persistent_cache()
    chosen = load_model(model)
    seed = chosen.settings.run.seed if seed is None else seed
    agree(chosen.settings.run, market)
    with jax.enable_x64(True):
        history = chosen.factors(market, book.instruments)
        history = without_settlements(history)
        state = jax.tree.map(np.asarray, chosen.carry(history))
        window = _window(history, len(chosen.carried_factors(state).returns))
        if history.signals is not None:
            window = replace(window, signals=history.signals.begun())
        draws = chosen.draw(seed, window)
    tables = {**market.tables, "history": market.tables["history"].of(market.tables["history"].rows.clear())}
    live = LiveMargin(book, replace(market, tables=tables), chosen, window, state, draws, seed)
    now = np.datetime64(market.as_of.replace(tzinfo=None), "us")
    later = history.grid.bars_after(history.times[-1], now) >= 1
    return live._stepped(live.market, live.market, {}) if later else live


def check_factors(instruments: Instruments, history: FactorHistory) -> None:
    """Refuse contracts whose basis, and options whose volatility, no factor of a history moves."""
    known = {*history.names, ""}
    names = np.where(instruments.has_basis, np.char.add("basis:", instruments.ids.astype(str)), "")
    wanted = np.where(instruments.is_option, forward_factors(instruments).astype(str), names)
    for k, name in enumerate(wanted):
        implied = volatility_factor(str(instruments.underlying[k])) if instruments.is_option[k] else ""
        if instruments.underlying[k] in known and not {str(name), implied} <= known:
            what = f"'{instruments.ids[k]}' was listed after the market was first followed: nothing moves its basis"
            remedy = "Follow the market anew with its history, or take the contract out"
            raise BadInput([Problem("instruments", "instrument_id", None, what, remedy, table="instruments")])


def _settling(live: LiveMargin) -> list[tuple[str, np.datetime64]]:
    """Underlyings and times of the options that settle inside the horizon."""
    now = np.datetime64(live.market.as_of.replace(tzinfo=None), "us")
    horizon = live.model.settings.risk.horizon_days * live.history.grid.days_per_trading_day * DAY_MICROS
    names = list(live.history.names[: live.history.underlyings])
    return settling(live.book.instruments, names, now + np.timedelta64(round(horizon), "us"))


def _window(history: FactorHistory, rows: int) -> FactorHistory:
    """The last rows of a history; what is missing in front is padding, stamped like the first bar."""
    padding = max(rows - len(history.times), 0)
    times = np.concatenate([np.repeat(history.times[:1], padding), history.times[-rows:]])

    def padded(table: np.ndarray, fill: float) -> np.ndarray:
        return np.concatenate([np.full((padding, table.shape[1]), fill), table[-rows:]])

    return replace(
        history,
        times=times,
        returns=padded(history.returns, np.nan),
        seen=None,
        bars=padded(history.bars, 1.0),
        gap_return=np.full(len(history.names), np.nan),
        gap_bars=np.ones(len(history.names)),
        padding=padding,
        carried=True,
    )


def _as_known(history: FactorHistory, model: MarginModel, state: Any) -> FactorHistory:
    """The history's flags as the state has them now; its returns stay those of the beginning."""
    factors = model.carried_factors(state)
    own, noise = np.asarray(factors.own), np.asarray(factors.noise)
    is_price = np.arange(len(history.names)) < history.underlyings
    frozen = np.where(is_price, own & ~np.isnan(noise), history.frozen)
    return replace(
        history,
        own=own,
        frozen=frozen,
        noise=np.where(is_price, noise, history.noise),
        padding=max(history.padding - 1, 0),
    )


def _walk(history: FactorHistory, given: Market, values: Mapping[str, float]) -> np.ndarray:
    """Where each factor stands at a bar; NaN for what it does not bring. Raises BadInput for values of nothing."""
    place = {name: k for k, name in enumerate(history.names)}
    stands = np.full(len(place), np.nan)
    for name, price, time in given.underlyings.select("underlying", "index_price", "time").iter_rows():
        k = place[name]
        # A feed that repeats an old price knows no new one: a return of zero would lower the volatility.
        if time is None or not np.datetime64(time.replace(tzinfo=None), "us") <= history.last_bar[k]:
            stands[k] = price if history.absolute[k] else np.log(price)
    implied = history.is_volatility
    for name, value in values.items():
        k = place.get(name, 0)
        if k < history.underlyings or not history.own[k]:
            listed = [history.names[j] for j in range(history.underlyings, len(place)) if history.own[j]]
            what = f"'{name}' is no factor with a history of its own beside the prices"
            raise BadInput([Problem("values", name, None, what, f"Leave it out; {suggestion(name, listed)}")])
        if not np.isfinite(value) or (implied[k] and value <= 0):
            what = f"{value} was given for '{name}'"
            raise BadInput([Problem("values", name, None, what, "Give a number; a volatility above zero")])
        stands[k] = np.log(value) if implied[k] else value
    return stands


def _level(history: FactorHistory, market: Market) -> np.ndarray:
    """Levels of what is shocked absolutely grow with the price."""
    level = history.level.copy()
    price = np.abs(market.underlyings["index_price"].to_numpy())
    prices = slice(0, history.underlyings)
    level[prices] = np.where(history.absolute[prices], np.maximum(level[prices], price), level[prices])
    return level


def _told(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, unit="m")).replace("T", " ")


@jax.jit
def _step(model: MarginModel, state: Any, bar: Bar) -> Any:
    return model.step(state, bar)
