"""What a run gives back: margins by account, the reasons, the record of how they came, and attribution on request."""

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from marginax.config import Config
from marginax.exposures import Exposures
from marginax.models.protocol import Margin, Parts, Totals
from marginax.scenarios.sets import ScenarioSet
from marginax.status import Status
from marginax.statuses import Statuses
from marginax.tables.match import Matched
from marginax.tables.results import write_tables
from marginax.tables.schemas import UNUSED

Attribute = Callable[[np.ndarray], Iterator[tuple[Any, Parts]]]
PACKAGES = ("marginax", "jax", "equinox", "numpy", "polars", "pyarrow")


@dataclass
class Figures:
    """The model's answers by account, gathered tile by tile; NaN (index -1) for an account without one."""

    parts: dict[str, Float64[np.ndarray, " accounts"]]
    maintenance: Float64[np.ndarray, " accounts"]
    numbers: dict[str, Float64[np.ndarray, " accounts"]]
    worst: Int64[np.ndarray, " accounts"]
    computed: Bool[np.ndarray, " accounts"]
    uncovered: Float64[np.ndarray, " scenarios"]

    @classmethod
    def empty(cls, accounts: int, scenarios: int, parts: tuple[str, ...]) -> "Figures":
        """No answers yet."""
        numbers = ("var", "expected_shortfall", "std_error", "stress_score")
        return cls(
            parts={name: np.full(accounts, np.nan) for name in parts},
            maintenance=np.full(accounts, np.nan),
            numbers={name: np.full(accounts, np.nan) for name in numbers},
            worst=np.full(accounts, -1),
            computed=np.zeros(accounts, bool),
            uncovered=np.zeros(scenarios),
        )

    def take(self, accounts: np.ndarray, margin: Margin, totals: Totals) -> None:
        """Put a tile's rows where they belong; sums are float64, in tile order."""
        rows = len(accounts)
        requirement = np.zeros(rows)
        for name, values, ratio in zip(margin.parts.names, margin.parts.values, margin.maintenance_ratios, strict=True):
            part = np.asarray(values[:rows], float)
            self.parts[name][accounts] = part
            requirement += part * float(ratio)
        self.maintenance[accounts] = requirement
        for name, numbers in self.numbers.items():
            numbers[accounts] = getattr(margin, name)[:rows] + 0.0  # no negative zero
        self.worst[accounts] = margin.worst_scenario[:rows]
        self.computed[accounts] = True
        for block in totals.uncovered:
            self.uncovered += block

    @property
    def finite(self) -> Bool[np.ndarray, " accounts"]:
        """False where an account was computed and something of it is not finite."""
        known = np.isfinite(self.maintenance) & np.isfinite(self.numbers["expected_shortfall"])
        return known | ~self.computed


@dataclass(frozen=True)
class Result:
    """Margins of a book. `margins` has one row per account in the order of their ids; `manifest` says how they came."""

    margins: pl.DataFrame
    manifest: dict[str, Any]
    quarantine: pl.DataFrame
    parts: tuple[str, ...]
    _matched: Matched = field(repr=False)
    _exposures: Exposures = field(repr=False)
    _attribute: Attribute = field(repr=False)

    @classmethod
    def assemble(
        cls,
        *,
        matched: Matched,
        exposures: Exposures,
        model: str,
        settings: Config,
        seed: int,
        figures: Figures,
        statuses: Statuses,
        scenarios: ScenarioSet,
        diagnostics: Mapping[str, Any],
        attribute: Attribute,
        clock: dict[str, float],
    ) -> "Result":
        """The tables and the manifest from what a run computed."""
        margins = _margins(matched, exposures, model, figures, statuses, scenarios)
        tables = {**matched.book.tables, **matched.market.tables}
        seconds = list(clock.values())
        manifest: dict[str, Any] = {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "device": f"{jax.local_devices()[0].device_kind} x {jax.local_device_count()}",
            "platform": f"{platform.system()} {platform.machine()}",
            "model": model,
            "seed": seed,
            "as_of": matched.market.as_of.isoformat(),
            "currency": matched.market.currency,
            "configuration": settings.model_dump(mode="json", by_alias=True),
            "inputs": {name: table.record for name, table in tables.items() if table.digests},
            "unused_tables": [name for name in UNUSED if tables[name].given],
            "history_rows_after_as_of": matched.market.after_as_of,
            "scenarios": {
                "count": len(scenarios),
                "first": scenarios.labels[0],
                "last": scenarios.labels[-1],
                "sha256": scenarios.digest,
                **diagnostics,
            },
            "accounts": {"total": len(matched.book), "by_status": statuses.counts()},
            "totals": {
                name: _finite(margins[name].fill_null(0).sum())
                for name in ("equity", "initial_margin", "maintenance_margin", "call")
            },
            "uncovered_loss": _uncovered(figures, scenarios),
            "seconds": {
                name: round(late - early, 6)
                for name, early, late in zip(list(clock)[1:], seconds, seconds[1:], strict=False)
            },
        }
        return cls(margins, manifest, matched.quarantine, tuple(figures.parts), matched, exposures, attribute)

    @property
    def excepted(self) -> int:
        """How many accounts have no margin."""
        return int(self.margins["initial_margin"].null_count())

    def to_arrow(self) -> pa.Table:
        """The margins as an Arrow table."""
        return self.margins.to_arrow()

    def attribution(self, accounts: list[str] | None = None) -> pl.DataFrame:
        """One row per position, and per asset of the collateral that moves: each part's Euler share of it.

        Columns: account_id, instrument_id (null for collateral), asset (null for positions), amount (contracts or
        units), one per part, and total. Rows of an account sum to its parts and to its initial margin; accounts
        without a margin have none. Raises KeyError for an account that is not in the book.
        """
        book = self._matched.book
        chosen = np.arange(len(book))
        if accounts is not None:
            unknown = sorted(set(accounts) - set(book.accounts))
            if unknown:
                raise KeyError(f"no account {unknown[0]!r} in the book")
            chosen = np.flatnonzero(np.isin(book.accounts, accounts))
        able = chosen[self.margins["initial_margin"].is_not_null().to_numpy()[chosen]]
        frames = [self._attribution_rows(part, shares) for part, shares in self._attribute(able)]
        empty = {
            "account_id": pl.String,
            "instrument_id": pl.String,
            "asset": pl.String,
            "amount": pl.Float64,
        }
        schema = {**empty, **dict.fromkeys(self.parts, pl.Float64), "total": pl.Float64}
        return pl.concat([pl.DataFrame(schema=schema), *frames]).sort("account_id", maintain_order=True)

    def explain(self, account: str) -> pl.DataFrame:
        """Why one account owes what it owes: its attribution, the largest share first."""
        return self.attribution([account]).sort("total", descending=True)

    def write(self, directory: str | Path, *, attribution: bool = False) -> Path:
        """Write margins.parquet, manifest.json, and what else there is, whole or not at all; returns the folder."""
        tables = {"margins": self.margins}
        if self.quarantine.height:
            tables["quarantine"] = self.quarantine
        if attribution:
            tables["attribution"] = self.attribution()
        return write_tables(directory, tables, self.manifest)

    def _attribution_rows(self, part: Any, shares: Parts) -> pl.DataFrame:
        book, exposures = self._matched.book, self._exposures
        names = book.instruments.ids[exposures.listed]
        assets = self._matched.market.underlyings["underlying"].to_list()
        columns: dict[str, list[np.ndarray]] = {"account": [], "row": [], "amount": []}
        values: dict[str, list[np.ndarray]] = {name: [] for name in shares.names}
        for held, offset, width in (
            (exposures.positions, 0, part.width),
            (exposures.collateral, part.width, part.collateral_width),
        ):
            counts = held.counts[part.accounts]
            row, column = np.nonzero(np.arange(width) < counts[:, None])
            entry = held.starts[part.accounts][row] + column
            columns["account"].append(part.accounts[row])
            columns["row"].append(held.columns[entry])
            columns["amount"].append(held.amounts[entry])
            for name, share in zip(shares.names, shares.values, strict=True):
                values[name].append(np.asarray(share[row, offset + column], float))
        what = pl.DataFrame(
            {
                "row": np.arange(len(exposures.groups)),
                "instrument_id": [*names, *[None] * len(assets)],
                "asset": [*[None] * len(names), *assets],
            },
            schema={"row": pl.Int64, "instrument_id": pl.String, "asset": pl.String},
        )
        shown = pl.DataFrame(
            {
                "account_id": pl.Series(book.accounts[np.concatenate(columns["account"])], dtype=pl.String),
                "row": pl.Series(np.concatenate(columns["row"]), dtype=pl.Int64),
                "amount": np.concatenate(columns["amount"]),
                **{name: np.concatenate(value) for name, value in values.items()},
            }
        )
        shown = shown.join(what, on="row", how="left", maintain_order="left").select(
            "account_id", "instrument_id", "asset", "amount", *shares.names
        )
        return shown.with_columns(pl.sum_horizontal(shares.names).alias("total"))


def _margins(
    matched: Matched,
    exposures: Exposures,
    model: str,
    figures: Figures,
    statuses: Statuses,
    scenarios: ScenarioSet,
) -> pl.DataFrame:
    able = figures.computed & ~statuses.excepted
    parts = {name: np.where(able, values, np.nan) for name, values in figures.parts.items()}
    zero = np.where(able, 0.0, np.nan)
    total = sum(parts.values(), zero)
    initial = np.maximum(total, 0)
    if "floor" in parts:
        # What float32 left below zero belongs to the floor, so that parts and requirement are one sum.
        parts["floor"] = parts["floor"] + (initial - total)
    maintenance = np.clip(np.where(able, figures.maintenance, np.nan), 0, initial)
    known = ~(matched.unpriced | matched.incomplete) & np.isfinite(exposures.equity)
    equity = np.where(known, exposures.equity, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(maintenance > 0, equity / maintenance, np.nan)
    call = np.where(equity < maintenance, initial - equity, zero)
    labels = np.array([*scenarios.labels, ""], object)
    at_risk = able & (exposures.positions.counts + exposures.collateral.counts > 0)
    worst = np.where(at_risk, labels[figures.worst], "")
    words = np.array([status.label for status in Status], object)
    count = len(matched.book)
    columns: dict[str, Any] = {
        "account_id": matched.book.accounts,
        "as_of": pl.repeat(matched.market.as_of, count, eager=True, dtype=pl.Datetime("us", "UTC")),
        "model": pl.repeat(model, count, eager=True, dtype=pl.String),
        "currency": pl.repeat(matched.market.currency, count, eager=True, dtype=pl.String),
        "equity": equity,
        "initial_margin": initial,
        "maintenance_margin": maintenance,
        "margin_ratio": ratio,
        "available": np.maximum(0, equity - initial),
        "call": call,
        "var": np.where(able, figures.numbers["var"], np.nan),
        "expected_shortfall": np.where(able, figures.numbers["expected_shortfall"], np.nan),
        "es_std_error": np.where(able, figures.numbers["std_error"], np.nan),
        **parts,
        "stress_score": np.where(able, figures.numbers["stress_score"], np.nan),
        "band": pl.repeat(None, count, eager=True, dtype=pl.String),
        "worst_scenario": worst,
        "status": words[statuses.codes],
        "reason": statuses.reasons,
    }
    text = ("account_id", "worst_scenario", "status", "reason")
    frame = pl.DataFrame(columns, schema_overrides=dict.fromkeys(text, pl.String))
    blank = pl.col("worst_scenario", "reason").replace("", None)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None), blank)


def _finite(total: float) -> float | None:
    """A sum for the manifest; None where it is beyond float64, which JSON cannot say."""
    return float(total) if np.isfinite(total) else None


def _uncovered(figures: Figures, scenarios: ScenarioSet) -> dict[str, Any]:
    """What the venue would be left with if every account lost its equity first: the mean, and the worst scenario."""
    if not len(scenarios):
        return {}
    worst = int(np.argmax(figures.uncovered))
    return {
        "mean": _finite(figures.uncovered @ scenarios.weights),
        "worst": _finite(figures.uncovered[worst]),
        "worst_scenario": scenarios.labels[worst],
    }
