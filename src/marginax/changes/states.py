"""Requirements in a state between two runs: some rows of a book, one market, one set of parameters.

A market is made ready once however many books are margined in it. What a state cannot price is left out of it, and its
accounts have no requirement there.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import numpy as np
import polars as pl

from marginax.book import assemble
from marginax.changes.between import Side
from marginax.engine.figures import MANUAL, margins_table
from marginax.engine.margin_book import Ready, one_pass, ready_for
from marginax.engine.result import Result
from marginax.exposures import expose
from marginax.match import Matched, match
from marginax.models.protocol import MarginModel
from marginax.sections import Engine, Run
from marginax.tables.door import Admitted
from marginax.tables.findings import empty_quarantine

KEY = "account_id"
REQUIREMENTS = ("initial_margin", "maintenance_margin")
HELD = ("positions", "balances", "orders", "accounts")
Holdings = dict[str, Admitted]
"""The tables `HELD` of a book."""


@dataclass(frozen=True)
class Method:
    """How requirements are computed: a model, the seed of its draws, and the engine's section."""

    model: MarginModel
    seed: int
    engine: Engine

    def same_as(self, other: "Method") -> bool:
        """Whether both charge the same: settings and numbers of the model, seed and precision."""
        apart = {"run": Run(), "engine": Engine()}  # a run's own; the engine's section is told apart
        one, two = (each.model.settings.model_copy(update=apart) for each in (self, other))
        alike = (self.seed, self.engine, one) == (other.seed, other.engine, two)
        leaves = (tuple(jax.tree.leaves(each.model)) for each in (self, other))
        return alike and type(self.model) is type(other.model) and bool(eqx.tree_equal(*leaves))


@dataclass
class State:
    """A market and a method, and what was made ready of them, once a book needed it."""

    side: Side
    method: Method
    ready: Ready | None = None

    @classmethod
    def of(cls, result: Result) -> "State":
        """The state that a run was in."""
        side = Side(result.matched.market, result.matched.book.tables["instruments"])
        ready = result.ready
        return cls(side, Method(ready.model, ready.known.seed, ready.settings), ready)

    def same_as(self, other: "State") -> bool:
        """Whether every book has the same requirements in both."""
        return self is other or (self.method.same_as(other.method) and self.side.same_as(other.side))

    def match(self, held: Holdings) -> Matched:
        """Holdings against the market of this state; what it cannot price is set aside."""
        tables = {name: replace(table, quarantine=empty_quarantine()) for name, table in held.items()}
        tables["instruments"] = replace(self.side.instruments, quarantine=empty_quarantine())
        book = assemble(tables, "quarantine")
        model = self.method.model
        options = model.settings.options
        return match(book, self.side.market, model=model.name, options=options, on_error="quarantine")

    def requirements(self, held: Holdings) -> pl.DataFrame:
        """account_id, both requirements and the parts of the initial one; null where there is none.

        Isolated positions are none of their account's.
        """
        matched = self.match(held)
        model = self.method.model
        if self.ready is None:
            self.ready, exposures = ready_for(model, matched, seed=self.method.seed, engine=self.method.engine)
        else:
            with jax.enable_x64(True):
                history = self.ready.known.history
                exposures = expose(
                    matched.book, matched.market, history, model.settings.options, model.settings.funding
                )
        passed = one_pass(self.ready, matched, exposures)
        scenarios = self.ready.scenarios
        found = (passed.figures, passed.statuses, scenarios, passed.manual, model.settings.score, None)
        table = margins_table(matched, exposures, model.name, *found).head(len(matched.book))
        by_hand = () if passed.manual is None else (MANUAL,)
        return table.select(KEY, *REQUIREMENTS, *model.part_names, *by_hand)


def of_accounts(held: Holdings, accounts: np.ndarray) -> Holdings:
    """The rows of some accounts."""
    names = pl.Series(accounts, dtype=pl.String)
    return {name: table.of(table.rows.filter(pl.col(KEY).is_in(names.implode()))) for name, table in held.items()}


def enterable(held: Holdings, state: State) -> tuple[Holdings, np.ndarray]:
    """The rows that a state can price, and the accounts that lost others."""
    matched = state.match(held)
    book = matched.book
    late = book.accounts[(matched.unpriced | matched.incomplete)[: len(book)]]
    return {name: book.tables[name] for name in held}, late
