"""What is told of an epoch: one row of sums, and one row a holder.

Amounts are in account currency. A holder is an account, or an isolated position (`instrument_id` is null for an
account). Sums are over holders that have a margin, in the order of their rows.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from marginax.engine.tally import closest
from marginax.epochs.calls import Ledger, Policy
from marginax.tables.schemas import UTC_TIME

HOLDERS: dict[str, pl.DataType] = {
    "time": UTC_TIME,
    "account_id": pl.String(),
    "instrument_id": pl.String(),
    "equity": pl.Float64(),
    "initial_margin": pl.Float64(),
    "maintenance_margin": pl.Float64(),
    "margin_ratio": pl.Float64(),
    "call": pl.Float64(),
    "stress_score": pl.Float64(),
    "is_new_call": pl.Boolean(),
    "is_closed": pl.Boolean(),
    "status": pl.String(),
}
EPOCHS: dict[str, pl.DataType] = {
    "time": UTC_TIME,
    "prices": pl.Int64(),
    "accounts": pl.Int64(),
    "without_margin": pl.Int64(),
    "equity": pl.Float64(),
    "initial_margin": pl.Float64(),
    "maintenance_margin": pl.Float64(),
    "below_maintenance": pl.Int64(),
    "call": pl.Float64(),
    "new_calls": pl.Int64(),
    "new_call": pl.Float64(),
    "below_zero": pl.Int64(),
    "shortfall": pl.Float64(),
    "closed": pl.Int64(),
    "written_off": pl.Float64(),
    "expected_below_zero": pl.Float64(),
    "expected_bad_debt": pl.Float64(),
    "worst_accounts": pl.List(pl.String()),
    "worst_ratio": pl.Float64(),
}


@dataclass(frozen=True)
class Told:
    """The rows of one epoch, and equity and call of each holder of the book at the beginning (NaN: no margin)."""

    epoch: pl.DataFrame
    holders: pl.DataFrame
    equity: Float64[np.ndarray, " holders"]
    call: Float64[np.ndarray, " holders"]


def told(
    rows: pl.DataFrame,
    ledger: Ledger,
    policy: Policy,
    *,
    keys: pl.DataFrame,
    time: datetime,
    prices: int,
    bad_debt: float | None,
) -> Told:
    """What is told of an epoch, from a row of margins for each holder (`engine.figures.margins_table`).

    `ledger` is that of before, `keys` names the holders of the beginning by account_id and instrument_id, in order;
    `prices` is how many index prices the bar brought, `bad_debt` the mean loss beyond equity over the scenarios.
    """
    at = _places(rows, keys)
    able = rows["initial_margin"].is_not_null().to_numpy()
    call = np.where(able, rows["call"].fill_null(0.0).to_numpy(), np.nan)
    equity = np.where(able, rows["equity"].cast(pl.Float64).fill_null(np.nan).to_numpy(), np.nan)
    below = equity < rows["maintenance_margin"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    owes = np.nan_to_num(call) > 0
    is_new = owes & ~ledger.called[at]
    ends = ledger.closing[at] & np.isfinite(equity) if policy == "closed" else np.zeros(len(at), bool)
    missing = np.maximum(-np.nan_to_num(equity), 0.0) + 0.0
    sums = rows.filter(pl.Series(able))
    worst = closest(sums)
    ratio = worst["margin_ratio"][0] if worst.height else None
    epoch = {
        "time": time,
        "prices": prices,
        "accounts": int(rows["instrument_id"].null_count()),
        "without_margin": int((~able).sum()),
        **{name: float(sums[name].sum()) for name in ("equity", "initial_margin", "maintenance_margin")},
        "below_maintenance": int(below.sum()),
        "call": float(call[owes].sum()),
        "new_calls": int(is_new.sum()),
        "new_call": float(call[is_new].sum()),
        "below_zero": int((missing > 0).sum()),
        "shortfall": float(missing.sum()),
        "closed": int(ends.sum()),
        "written_off": float(missing[ends].sum()),
        "expected_below_zero": float(sums["stress_score"].fill_null(0.0).sum()),
        "expected_bad_debt": bad_debt,
        "worst_accounts": worst["account_id"].to_list(),
        "worst_ratio": ratio,
    }
    holders = rows.with_columns(
        time=pl.lit(time).cast(UTC_TIME), is_new_call=pl.Series(is_new), is_closed=pl.Series(ends)
    )
    filled = [np.full(keys.height, np.nan) for _ in range(2)]
    for column, values in zip(filled, (equity, call), strict=True):
        column[at] = values
    return Told(
        pl.DataFrame([epoch], schema=EPOCHS, orient="row"),
        holders.select(pl.col(name).cast(dtype) for name, dtype in HOLDERS.items()),
        *filled,
    )


def _places(rows: pl.DataFrame, keys: pl.DataFrame) -> Int64[np.ndarray, " rows"]:
    """The number of each row's holder at the beginning; isolated positions that were closed have no row any more."""
    if rows.height == keys.height:
        return np.arange(keys.height)
    numbered = keys.with_row_index("place")
    found = rows.select("account_id", "instrument_id").join(
        numbered, on=["account_id", "instrument_id"], how="left", nulls_equal=True, maintain_order="left"
    )
    return found["place"].to_numpy().astype(np.int64)
