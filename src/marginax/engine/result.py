"""What a run gives back: margins by account, the reasons, the record of how they came, and attribution on request."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Float64

from marginax.chains import VolatilitySource
from marginax.config import Config
from marginax.engine.bands import counts_by_band
from marginax.engine.figures import ACCRUED, MANUAL, Figures, Manual, finite, margins_table, uncovered_loss
from marginax.engine.manual import manual_notes
from marginax.engine.scores import ScoreGradient, score_gradient_of, scores_of
from marginax.expiries import ForwardSource
from marginax.exposures import Exposures
from marginax.funding import of_positions
from marginax.limits import breach_notes
from marginax.match import Matched
from marginax.models.protocol import Parts
from marginax.option_table import option_table
from marginax.options import MINUTES_A_YEAR
from marginax.scenarios.sets import ScenarioSet
from marginax.statuses import Statuses
from marginax.tables.findings import PLACE
from marginax.tables.results import write_tables
from marginax.tables.schemas import UNUSED
from marginax.venue import VenueView, venue_of

if TYPE_CHECKING:
    from marginax.engine.margin_book import Ready

Attribute = Callable[[np.ndarray], Iterator[tuple[Any, Parts]]]
# Of the forward (or of a coin): how far a mark may be from the value of its own volatility before it is named.
FAR = 0.05
LISTED = 20
# Columns of the margins that the manifest sums; some are there only where their section is on.
TOTALS = ("equity", ACCRUED, "initial_margin", "maintenance_margin", "call", "shortfall", "returnable")
PACKAGES = ("marginax", "jax", "equinox", "numpy", "polars", "pyarrow")


@dataclass(frozen=True)
class Result:
    """Margins of a book. `margins` has one row per account in the order of their ids, `isolated` one per isolated
    position with the same columns; `manifest` says how they came.

    `scenarios` are those that every account was margined under, `uncovered` what all accounts together lose beyond
    their equity in each of them, `quarantine` the rows set aside at the door, `options` one row an option of the
    market, with what it is priced with and its Greeks (`marginax.option_table`), `breaches` one row for each limit that
    an account passes in an underlying (`marginax.limits`), None where no limit is set, `venue` what all accounts
    add up to (`marginax.venue`), None where `venue.report` does not ask for it, `matched` the book and the
    market, `ready` what that market was margined with.
    """

    margins: pl.DataFrame
    isolated: pl.DataFrame
    manifest: dict[str, Any]
    quarantine: pl.DataFrame
    scenarios: ScenarioSet
    parts: tuple[str, ...]
    options: pl.DataFrame
    breaches: pl.DataFrame | None
    venue: VenueView | None
    uncovered: Float64[np.ndarray, " scenarios"]
    matched: Matched = field(repr=False)
    ready: "Ready" = field(repr=False)
    _exposures: Exposures = field(repr=False)
    _manual: Manual | None = field(repr=False)
    _attribute: Attribute = field(repr=False)

    @classmethod
    def assemble(
        cls,
        *,
        matched: Matched,
        exposures: Exposures,
        ready: "Ready",
        settings: Config,
        figures: Figures,
        manual: Manual | None,
        statuses: Statuses,
        notes: Mapping[str, Any],
        breaches: pl.DataFrame | None,
        attribute: Attribute,
        clock: dict[str, float],
        kernel: str,
        read: Sequence[str],
    ) -> "Result":
        """The tables and the manifest from what a run computed; `read` are tables that only some models read."""
        model, scenarios = ready.model.name, ready.scenarios
        table = margins_table(
            matched, exposures, model, figures, statuses, scenarios, manual, settings.score, settings.calls
        )
        margins, isolated = table.head(len(matched.book)).drop("instrument_id"), table.slice(len(matched.book))
        able = table.filter(pl.col("initial_margin").is_not_null())
        window = settings.options.settlement_window_minutes / MINUTES_A_YEAR
        options = option_table(matched.book.instruments, matched.market, exposures.chains, window=window)
        beyond = figures.uncovered, figures.beyond_margins
        venue = venue_of(matched, exposures, table, options, beyond, scenarios, settings.venue)
        tables = {**matched.book.tables, **matched.market.tables}
        seconds = list(clock.values())
        manifest: dict[str, Any] = {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "device": f"{jax.local_devices()[0].device_kind} x {jax.local_device_count()}",
            "kernel": kernel,
            "platform": f"{platform.system()} {platform.machine()}",
            "model": model,
            "seed": ready.known.seed,
            "as_of": matched.market.as_of.isoformat(),
            "currency": matched.market.currency,
            "configuration": settings.model_dump(mode="json", by_alias=True, exclude={"run"}),
            "inputs": {name: table.record for name, table in tables.items() if table.digests},
            "unused_tables": [name for name in _unused(settings) if tables[name].given and name not in read],
            "history_rows_after_as_of": matched.market.after_as_of,
            "scenarios": {
                "count": len(scenarios),
                "first": scenarios.labels[0],
                "last": scenarios.labels[-1],
                "sha256": scenarios.digest,
                **ready.diagnostics,
            },
            "options": _option_notes(options, exposures.chains.contradicted),
            "data": notes,
            "limits": breach_notes(breaches),
            "accounts": {
                "total": len(matched.book),
                "by_status": statuses.counts(len(matched.book)),
                "by_band": counts_by_band(margins),
            },
            "venue": {} if venue is None else dict(venue.notes),
            "isolated": isolated.height,
            "manual": manual_notes(matched, manual, 0.0 if manual is None else float(able[MANUAL].sum())),
            "totals": {name: finite(float(able[name].sum())) for name in TOTALS if name in able.columns},
            "uncovered_loss": uncovered_loss(figures.uncovered, scenarios, tail=settings.risk.tail),
            "seconds": {
                name: round(late - early, 6)
                for name, early, late in zip(list(clock)[1:], seconds, seconds[1:], strict=False)
            },
        }
        return cls(
            margins,
            isolated,
            manifest,
            matched.quarantine,
            scenarios,
            tuple(figures.parts) if manual is None else (*figures.parts, MANUAL),
            options,
            breaches,
            venue,
            figures.uncovered,
            matched,
            ready,
            exposures,
            manual,
            attribute,
        )

    def __repr__(self) -> str:
        return f"Result({self.margins.height:,} accounts, {self.excepted:,} without a margin)"

    @property
    def excepted(self) -> int:
        """How many accounts and isolated positions have no margin."""
        return int(self.margins["initial_margin"].null_count() + self.isolated["initial_margin"].null_count())

    @property
    def checked_prices(self) -> dict[str, pl.DataFrame]:
        """Quotes and underlyings as they were used, for the next check; none where prices were not checked."""
        market = self.matched.market
        if market.fallbacks is None:
            return {}
        return {f"checked_{name}": market.tables[name].rows.drop(PLACE) for name in ("quotes", "underlyings")}

    def to_arrow(self) -> pa.Table:
        """The margins as an Arrow table."""
        return self.margins.to_arrow()

    def attribution(self, accounts: list[str] | None = None) -> pl.DataFrame:
        """One row per position, per asset of the collateral that moves, and per open order that the model counts: each
        part's Euler share of it.

        Isolated positions are their whole margin and have no row. Columns: account_id, instrument_id (null for
        collateral), asset (null for positions and orders), order, amount (contracts or units), one per part, total, and
        where it is counted `accrued_funding`, which is in equity and in no total.
        Rows of an account sum to its parts and to its initial margin; accounts without a margin have none. Raises
        KeyError for an account that is not in the book.
        """
        book = self.matched.book
        chosen = np.arange(len(book))
        if accounts is not None:
            unknown = sorted(set(accounts) - set(book.accounts))
            if unknown:
                raise KeyError(f"no account {unknown[0]!r} in the book")
            chosen = np.flatnonzero(pl.Series(book.accounts, dtype=pl.String).is_in(accounts).to_numpy())
        able = chosen[self.margins["initial_margin"].is_not_null().to_numpy()[chosen]]
        frames = [self._attribution_rows(part, shares) for part, shares in self._attribute(able)]
        empty = {
            "account_id": pl.String,
            "instrument_id": pl.String,
            "asset": pl.String,
            "order": pl.Boolean,
            "amount": pl.Float64,
        }
        schema = {**empty, **dict.fromkeys(self.parts, pl.Float64), "total": pl.Float64}
        if self._exposures.accrued is not None:
            schema[ACCRUED] = pl.Float64
        return pl.concat([pl.DataFrame(schema=schema), *frames]).sort("account_id", maintain_order=True)

    def scenario(self, label: str) -> pl.DataFrame:
        """What one scenario does: underlying, factor, move; prices first, and the largest move of each kind first.

        A price moves relative to the index (null where that is zero), an implied volatility relative to itself; a basis
        by a share of the index, its `underlying` being what the basis is of. Paths to settlement are left out. Raises
        KeyError for a label that no scenario has.
        """
        if label not in self.scenarios.labels:
            raise KeyError(f"no scenario {label!r}")
        market, prices = self._exposures.market, self.matched.market.underlyings.height
        shocks = self.scenarios.shocks[self.scenarios.labels.index(label)]
        rows = []
        for k, (name, shock) in enumerate(zip(self.scenarios.factors, shocks.tolist(), strict=True)):
            kind, _, of = name.partition(":")
            if k < prices:
                size = abs(float(market.index[k]))
                relative = (shock / size if size else None) if market.absolute[k] else float(np.expm1(shock))
                rows.append((name, "price", relative))
            elif kind == "implied_vol":
                rows.append((of, kind, float(np.expm1(shock))))
            elif kind == "basis":
                rows.append((of, kind, shock))
        order = pl.Enum(["price", "implied_vol", "basis"])
        schema = pl.Schema({"underlying": pl.String(), "factor": order, "move": pl.Float64()})
        moves = pl.DataFrame(rows, schema=schema, orient="row")
        return moves.sort("factor", pl.col("move").abs(), descending=[False, True], nulls_last=True)

    def explain(self, account: str) -> pl.DataFrame:
        """Why one account owes what it owes: its attribution, the largest share first.

        Raises KeyError for an account that is not in the book, ValueError with the reason for one without a margin.
        """
        row = self.margins.filter(pl.col("account_id") == account)
        if row.height and row["initial_margin"][0] is None:
            raise ValueError(f"{account} has no margin: {row['reason'][0]}")
        return self.attribution([account]).sort("total", descending=True)

    def scores(self, accounts: list[str] | None = None) -> pl.DataFrame:
        """One row for each account and isolated position: its stress score, and what costs a pass over losses to tell.

        Columns: account_id, instrument_id (null for accounts), equity, cost_of_closing, stress_score,
        stress_score_smooth (the same with each scenario counted by how far it is beyond, over `bandwidth` to either
        side), bandwidth (account currency; null where nothing held can move), expected_shortfall_beyond_equity (the
        mean of loss and cost of closing beyond equity, zero where they are not), shortfall_given_exhaustion (that over
        the score), band, status. Figures are null for whom there is no margin. Raises KeyError for an account that is
        not in the book.
        """
        return scores_of(self, self._exposures, accounts)

    def score_gradient(self, account: str, instrument: str | None = None) -> ScoreGradient:
        """How the smooth score of one account answers to its positions, to prices and to equity; of its isolated
        position in `instrument` where one is named.

        Raises KeyError for what is not in the book, ValueError with the reason for what has no margin.
        """
        return score_gradient_of(self, self._exposures, account, instrument)

    def write(self, directory: str | Path, *, attribution: bool = False, scores: bool = False) -> Path:
        """Write margins.parquet, manifest.json, and what else there is, whole or not at all; returns the folder."""
        tables = {"margins": self.margins, **self.checked_prices}
        if self.isolated.height:
            tables["isolated"] = self.isolated
        if self.quarantine.height:
            tables["quarantine"] = self.quarantine
        if self.options.height:
            tables["options"] = self.options
        if self.breaches is not None:
            tables["breaches"] = self.breaches
        if self.venue is not None:
            tables |= self.venue.tables
        if attribution:
            tables["attribution"] = self.attribution()
        if scores:
            tables["scores"] = self.scores()
        return write_tables(directory, tables, self.manifest)

    def _attribution_rows(self, part: Any, shares: Parts) -> pl.DataFrame:
        book, exposures = self.matched.book, self._exposures
        names = book.instruments.ids[exposures.listed]
        assets = self.matched.market.underlyings["underlying"].to_list()
        columns: dict[str, list[np.ndarray]] = {"account": [], "row": [], "amount": [], "order": []}
        values: dict[str, list[np.ndarray]] = {name: [] for name in shares.names}
        kinds = [(exposures.positions, part.width), (exposures.collateral, part.collateral_width)]
        if shares.values[0].shape[1] > part.width + part.collateral_width:
            kinds.append((exposures.orders.held, part.orders_width))
        offset = 0
        for held, width in kinds:
            counts = held.counts[part.accounts]
            row, column = np.nonzero(np.arange(width) < counts[:, None])
            entry = held.starts[part.accounts][row] + column
            columns["account"].append(part.accounts[row])
            columns["row"].append(held.columns[entry])
            columns["amount"].append(held.amounts[entry])
            for name, share in zip(shares.names, shares.values, strict=True):
                values[name].append(np.asarray(share[row, offset + column], float))
            columns["order"].append(np.full(len(entry), held is exposures.orders.held))
            offset += width
        what = pl.DataFrame(
            {
                "row": np.arange(len(exposures.groups)),
                "instrument_id": [*names, *[None] * len(assets)],
                "asset": [*[None] * len(names), *assets],
            },
            schema={"row": pl.Int64, "instrument_id": pl.String, "asset": pl.String},
        )
        account, row, amount, order = (np.concatenate(each) for each in columns.values())
        parts = {name: np.concatenate(value) for name, value in values.items()}
        if self._manual is not None:
            before, added = sum(parts.values(), np.zeros(len(row))), np.zeros(len(row))
            is_position = (row < len(names)) & ~order
            added[is_position] = self._manual.of_entries(self._manual.initial, row[is_position], amount[is_position])
            parts[MANUAL] = self._manual.multiplier[account] * (before + added) - before
        shown = pl.DataFrame(
            {
                "account_id": pl.Series(book.accounts[account], dtype=pl.String),
                "row": pl.Series(row, dtype=pl.Int64),
                "amount": amount,
                "order": order,
                **parts,
            }
        )
        shown = shown.join(what, on="row", how="left", maintain_order="left").select(
            "account_id", "instrument_id", "asset", "order", "amount", *parts
        )
        shown = shown.with_columns(pl.sum_horizontal(list(parts)).alias("total"))
        if exposures.accrued is None:
            return shown
        paid, own = np.zeros(len(row)), (row < len(names)) & ~order
        paid[own] = of_positions(exposures.accrued, row[own], amount[own])
        return shown.with_columns(pl.Series(ACCRUED, paid))


def _unused(settings: Config) -> tuple[str, ...]:
    """Tables that this configuration does not look at."""
    walks = bool(settings.liquidity.impact) or settings.limits.depth_share is not None
    return UNUSED if walks else (*UNUSED, "order_book")


def _option_notes(options: pl.DataFrame, contradicted: np.ndarray) -> dict[str, Any]:
    """How many options take their forward and their volatility from where, and whose mark is not what those say.

    `contradicted` are those whose mark is far from their quoted volatility; where none is quoted, a mark further than
    `FAR` of the forward from the model's value is in another unit more often than a price.
    """
    whole = pl.when(pl.col("coin_settled")).then(1.0).otherwise(pl.col("forward").abs())
    unquoted = pl.col("volatility_source") != VolatilitySource.QUOTE.name.lower()
    far = pl.lit(pl.Series(contradicted)) | (
        unquoted & ((pl.col("mark_price") - pl.col("model_price")).abs() > FAR * whole)
    )
    return {
        "forwards": _counts(options["forward_source"], ForwardSource),
        "volatilities": _counts(options["volatility_source"], VolatilitySource),
        "marks_far_from_model": options.filter(far)["instrument_id"].head(LISTED).to_list(),
    }


def _counts(words: pl.Series, kinds: type[ForwardSource] | type[VolatilitySource]) -> dict[str, int]:
    return {kind.name.lower(): int((words == kind.name.lower()).sum()) for kind in kinds}
