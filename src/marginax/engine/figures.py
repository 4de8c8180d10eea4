"""Figures of a run become rows of margins: one per account or isolated position, parts and requirement as one sum."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from marginax.book import Entries
from marginax.engine.bands import bands
from marginax.engine.calls import call_columns
from marginax.exposures import Exposures
from marginax.funding import of_positions
from marginax.match import Matched
from marginax.models.protocol import Margin, Totals
from marginax.payment_sections import Calls
from marginax.scenarios.sets import ScenarioSet
from marginax.score_sections import Score
from marginax.status import Status
from marginax.statuses import Statuses
from marginax_kernels import expected_shortfall

# The part of a requirement that is added by hand.
MANUAL = "manual"
# The column of the funding that has accrued; it is in equity.
ACCRUED = "accrued_funding"

_expected_shortfall = jax.jit(expected_shortfall, static_argnames="tail")


@dataclass
class Figures:
    """The model's answers by account, gathered tile by tile; NaN (index -1) for an account without one."""

    parts: dict[str, Float64[np.ndarray, " accounts"]]
    maintenance: Float64[np.ndarray, " accounts"]
    numbers: dict[str, Float64[np.ndarray, " accounts"]]
    worst: Int64[np.ndarray, " accounts"]
    computed: Bool[np.ndarray, " accounts"]
    uncovered: Float64[np.ndarray, " scenarios"]
    beyond_margins: Float64[np.ndarray, " scenarios"] | None = None

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
            requirement += part * float(str(ratio))  # 0.8 where float32 says 0.800000012
        self.maintenance[accounts] = requirement
        for name, numbers in self.numbers.items():
            numbers[accounts] = getattr(margin, name)[:rows] + 0.0  # no negative zero
        self.worst[accounts] = margin.worst_scenario[:rows]
        self.computed[accounts] = True
        for block in totals.uncovered:
            self.uncovered += block
        for block in () if totals.beyond_margins is None else totals.beyond_margins:
            self.beyond_margins = block.astype(float) if self.beyond_margins is None else self.beyond_margins + block

    @property
    def finite(self) -> Bool[np.ndarray, " accounts"]:
        """False where an account was computed and its requirement is not finite."""
        return np.isfinite(self.maintenance) | ~self.computed


class Manual(NamedTuple):
    """What is added by hand: what multiplies the requirement of each holder, and what one contract of each listed
    instrument, long and short, adds to it first (account currency), initial and maintenance."""

    multiplier: Float64[np.ndarray, " holders"]
    initial: Float64[np.ndarray, "listed 2"]
    maintenance: Float64[np.ndarray, "listed 2"]

    def of_entries(self, units: Float64[np.ndarray, "listed 2"], rows: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        """What each position adds before the multiplier, of so many contracts."""
        return np.abs(amounts) * units[rows, (amounts < 0).astype(int)]

    def of_holders(self, units: Float64[np.ndarray, "listed 2"], held: Entries) -> Float64[np.ndarray, " holders"]:
        """The same summed over the positions of each holder."""
        added = self.of_entries(units, held.columns, held.amounts)
        return np.bincount(held.owners, added, minlength=len(self.multiplier))


def margins_table(
    matched: Matched,
    exposures: Exposures,
    model: str,
    figures: Figures,
    statuses: Statuses,
    scenarios: ScenarioSet,
    manual: Manual | None,
    score: Score,
    calls: Calls | None,
) -> pl.DataFrame:
    """A row a holder, accounts first; what one has no figure for is null.

    `instrument_id` is that of an isolated position, null for an account; `manual` is None where nobody adds anything,
    `score` says where bands begin, `calls` is None where the whole shortfall is called.
    """
    able = figures.computed & ~statuses.excepted
    parts = {name: np.where(able, values, np.nan) for name, values in figures.parts.items()}
    zero = np.where(able, 0.0, np.nan)
    total = sum(parts.values(), zero)
    initial = np.maximum(total, 0)
    if "floor" in parts:
        # What float32 left below zero belongs to the floor, so that parts and requirement are one sum.
        parts["floor"] = parts["floor"] + (initial - total)
    maintenance = np.clip(np.where(able, figures.maintenance, np.nan), 0, initial)
    if manual is not None:
        before = initial
        initial = manual.multiplier * (initial + manual.of_holders(manual.initial, exposures.positions))
        maintenance = manual.multiplier * (maintenance + manual.of_holders(manual.maintenance, exposures.positions))
        parts[MANUAL] = initial - before
        initial = before + parts[MANUAL]
    known = ~(matched.unpriced | matched.incomplete) & np.isfinite(exposures.equity)
    equity = np.where(known, exposures.equity, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(maintenance > 0, equity / maintenance, np.nan)
    labels = np.array([*scenarios.labels, ""], object)
    at_risk = able & (exposures.positions.counts + exposures.collateral.counts > 0)
    worst = np.where(at_risk, labels[figures.worst], "")
    words = np.array([status.label for status in Status], object)
    book, count = matched.book, matched.book.holders
    isolated = book.instruments.ids[book.isolated["instrument"].to_numpy()]
    columns: dict[str, Any] = {
        "account_id": book.accounts[book.holder_accounts],
        "instrument_id": [*(None,) * len(book), *isolated],
        "as_of": pl.repeat(matched.market.as_of, count, eager=True, dtype=pl.Datetime("us", "UTC")),
        "model": pl.repeat(model, count, eager=True, dtype=pl.String),
        "currency": pl.repeat(matched.market.currency, count, eager=True, dtype=pl.String),
        "equity": equity,
        **_accrued(exposures, np.isfinite(equity)),
        "initial_margin": initial,
        "maintenance_margin": maintenance,
        "margin_ratio": ratio,
        "available": np.maximum(0, equity - initial),
        **call_columns(equity, initial, maintenance, calls or Calls()),
        "var": np.where(able, figures.numbers["var"], np.nan),
        "expected_shortfall": np.where(able, figures.numbers["expected_shortfall"], np.nan),
        "es_std_error": np.where(able, figures.numbers["std_error"], np.nan),
        **parts,
        "stress_score": np.where(able, figures.numbers["stress_score"], np.nan),
        "band": bands(np.where(able, figures.numbers["stress_score"], np.nan), score),
        "worst_scenario": worst,
        "status": words[statuses.codes],
        "reason": statuses.reasons,
    }
    text = ("account_id", "instrument_id", "worst_scenario", "status", "reason")
    frame = pl.DataFrame(columns, schema_overrides=dict.fromkeys(text, pl.String))
    blank = pl.col("worst_scenario", "reason").replace("", None)
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None), blank)


def _accrued(exposures: Exposures, known: np.ndarray) -> dict[str, np.ndarray]:
    """The funding that each holder has accrued, as a column; none where it is not counted."""
    if exposures.accrued is None:
        return {}
    held = exposures.positions
    paid = of_positions(exposures.accrued, held.columns, held.amounts)
    return {ACCRUED: np.where(known, np.bincount(held.owners, paid, minlength=len(known)), np.nan)}


def finite(total: float) -> float | None:
    """A sum for the manifest; None where it is beyond float64, which JSON cannot say."""
    return float(total) if np.isfinite(total) else None


def uncovered_loss(
    uncovered: Float64[np.ndarray, " scenarios"], scenarios: ScenarioSet, *, tail: float
) -> dict[str, Any]:
    """What the venue would be left with if every account lost its equity first: mean, mean of the tail, and worst.

    A draw that is worse than all others may stand for next to nothing of the mass; the tail's mean does not.
    """
    if not len(scenarios):
        return {}
    worst = int(np.argmax(uncovered))
    with jax.enable_x64(True):
        in_tail = _expected_shortfall(uncovered, scenarios.weights, tail=tail)
    return {
        "mean": finite(uncovered @ scenarios.weights),
        "tail": tail,
        "tail_mean": finite(float(in_tail)),
        "worst": finite(uncovered[worst]),
        "worst_scenario": scenarios.labels[worst],
    }
