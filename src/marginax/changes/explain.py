"""Why margins moved: requirements along a path of states from one run to the other, and their differences.

The path, each step with the steps before it made:

    positions      the new positions, balances, orders and accounts, in the old market, at the old time, old parameters
    time           the clock: options decay, quotes and histories age as a whole; no price moves
    market         new prices, volatilities, forwards, bars, instruments
    data_quality   what is there and how late: gaps opened and mended, confidences, stamps that fell behind
    parameters     the new model, its numbers, its seed

What a run's market cannot price of the other's book is entered at the end of the path, and its requirement there is
`positions` too; so is that of accounts that are new.
"""

from collections.abc import Iterator
from time import perf_counter

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

from marginax.changes.between import Side, accounts_apart, as_time_alone, in_old_quality
from marginax.changes.change import CAUSES, Change
from marginax.changes.states import HELD, KEY, REQUIREMENTS, Holdings, State, enterable, of_accounts
from marginax.engine.result import Result
from marginax.problems import BadInput, Problem
from marginax.run_inputs import RunInputs

Table = Float64[np.ndarray, "accounts figures"]


def explain_change(before: Result | RunInputs, after: Result | RunInputs, *, average: bool = False) -> Change:
    """The change of every account's requirements between two runs, split into what caused it.

    A run is a result, or the inputs of one, which are margined first. `average` takes the mean of this order of causes
    and the opposite one, in which parameters come first and positions last. Raises BadInput for runs in different
    currencies, and for one whose market was carried forward bar by bar.
    """
    started = perf_counter()
    before, after = (each.margin() if isinstance(each, RunInputs) else each for each in (before, after))
    _check(before, after)
    margined = perf_counter()
    forth = _Path(before, after)
    moved, notes = forth.moves()
    runs = forth.runs
    if average:
        back = _Path(after, before)
        other, more = back.moves()
        moved = {cause: (values - other[cause]) / 2 for cause, values in moved.items()}
        notes |= {account: note for account, note in more.items() if account not in notes}
        runs += back.runs
    seconds = {"runs": round(margined - started, 3), "changes": round(perf_counter() - margined, 3)}
    return Change.assemble(before, after, forth.accounts, forth.figures, moved, notes, seconds=seconds, passes=runs)


def _check(before: Result, after: Result) -> None:
    one, other = (each.manifest["currency"] for each in (before, after))
    if one != other:
        what = f"the run before is in {one} and the run after in {other}"
        raise BadInput([Problem("run.currency", None, None, what, "Margin both in one currency")])
    for word, each in (("before", before), ("after", after)):
        if each.ready.known.history.carried:
            what = f"the market of the run {word} was carried forward bar by bar, and its history is not kept"
            raise BadInput([Problem(word, None, None, what, "Margin its tables with `margin_book`")])


class _Path:
    """The states between two runs, and what each account owes in them."""

    def __init__(self, before: Result, after: Result) -> None:
        parts = dict.fromkeys((*before.parts, *after.parts))
        self.figures = (*REQUIREMENTS, *parts)
        ids = pl.concat([before.margins[KEY], after.margins[KEY]]).unique().sort()
        self.accounts = ids.to_numpy()
        self._before, self._after = (self._table(each.margins) for each in (before, after))
        self._in_both = before.margins[KEY].filter(before.margins[KEY].is_in(after.margins[KEY].implode())).to_numpy()
        self._first, self._last = State.of(before), State.of(after)
        self._held = {name: before.matched.book.tables[name] for name in HELD}
        wanted = {name: after.matched.book.tables[name] for name in self._held}
        self._wanted, self._late = enterable(of_accounts(wanted, self._in_both), self._first)
        self.runs = 0

    def moves(self) -> tuple[dict[str, Table], dict[str, str]]:
        """What each cause adds to the figures of every account, and what could not be told apart, by account."""
        now = self._before
        moved: dict[str, Table] = {}
        notes: dict[str, str] = {}
        for cause, values in self._stations(now):
            known = ~np.isnan(values[:, 0])
            for account in self.accounts[~known & ~np.isnan(now[:, 0])]:
                notes.setdefault(account, f"no margin after `{cause}` alone: its part is in what follows")
            step = np.where(known[:, None], values, now)
            moved[cause] = step - now
            now = step
        moved["positions"] += self._after - now  # what entered last, and nothing else
        return {cause: moved[cause] for cause in CAUSES}, notes

    def _stations(self, start: Table) -> Iterator[tuple[str, Table]]:
        """Figures after each step, of accounts in both runs with what the first market can price; zero of others."""
        here = np.where(self._among(self._in_both), start, 0.0)
        state = self._first
        changed = accounts_apart(of_accounts(self._held, self._in_both), self._wanted)
        if state.same_as(self._last):
            here = self._ends()
        elif len(changed):
            found = self._table(self._run(state, of_accounts(self._wanted, changed)))
            here = np.where(self._among(changed), found, here)
        yield "positions", here
        for cause, following in self._states():
            if not following.same_as(state):
                if following.same_as(self._last):
                    here = self._ends()
                else:
                    here = self._table(self._run(following, self._wanted))
                state = following
            yield cause, here

    def _states(self) -> Iterator[tuple[str, State]]:
        first, last = self._first, self._last
        old, new, method = first.side, last.side, first.method
        yield "time", State(Side(as_time_alone(old, new), old.instruments), method)
        yield "market", State(Side(in_old_quality(old, new), new.instruments), method)
        yield "data_quality", State(new, method)
        yield "parameters", last

    def _ends(self) -> Table:
        """Figures of the run after; of accounts with rows to enter last, what they owe there without these."""
        found = np.where(self._among(self._in_both), self._after, 0.0)
        if len(self._late):
            without = self._table(self._run(self._last, of_accounts(self._wanted, self._late)))
            found = np.where(self._among(self._late), without, found)
        return found

    def _among(self, names: np.ndarray) -> Bool[np.ndarray, "accounts 1"]:
        """Which accounts are among some."""
        known = pl.Series(self.accounts, dtype=pl.String)
        return known.is_in(pl.Series(names, dtype=pl.String).implode()).to_numpy()[:, None]

    def _run(self, state: State, held: Holdings) -> pl.DataFrame:
        self.runs += 1
        return state.requirements(held)

    def _table(self, margins: pl.DataFrame) -> Table:
        """Figures of all accounts: zero for who is not there, NaN for who has no margin."""
        columns = [name for name in self.figures if name in margins.columns]
        frame = pl.DataFrame({KEY: pl.Series(self.accounts, dtype=pl.String)})
        found = frame.join(
            margins.select(KEY, *columns, pl.lit(True).alias("there")), on=KEY, how="left", maintain_order="left"
        )
        unknown = pl.col("there").fill_null(False) & pl.col(REQUIREMENTS[0]).is_null()
        values = [
            pl.when(unknown).then(float("nan")).otherwise(pl.col(name).fill_null(0.0) if name in columns else 0.0)
            .cast(pl.Float64).alias(name)
            for name in self.figures
        ]  # fmt: skip
        return found.select(values).to_numpy()
