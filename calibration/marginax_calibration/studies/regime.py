"""The study of the regime: whether sentiment and crowding ever make a margin cheaper, and whether chance does too.

Every variant is the preset `dynamic` with a regime, replayed over coins. A multiplier that is above one on average buys
fewer losses for more collateral, which any number would; so charges are scaled by one number until the mean uncovered
loss is that of the preset, and what is left is the cost of timing. The placebo has the same signals in blocks of days
put in another order: the same values in the same runs, at times of no meaning.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
from jaxtyping import Float64
from scipy.optimize import brentq

from marginax.calendars import Grid
from marginax.models.addons.regime import RegimeMultiplier, SignalArrays
from marginax.regime_section import Regime
from marginax.signals import signal_history
from marginax.tables.door import admit
from marginax_calibration.judgement import Backtest
from marginax_calibration.replay import Progress
from marginax_calibration.studies import baselines
from marginax_calibration.studies.baselines import markdown
from marginax_calibration.studies.dynamic import Settings, variants
from marginax_calibration.studies.histories import read

PLAIN = "dynamic"
COINS = ("seven coins", "wide crypto")
# A variant is chosen on what comes before, and judged on what comes from here on.
HALF = date(2023, 1, 1)
PLACEBOS, BLOCK_DAYS = 199, 30
TOLD = ("breaches", "charged", "uncovered", "peak/trough", "+5 bars")
SIGNIFICANT = 0.05
_BOUNDS: dict[str, Any] = {"most": 1.5, "least": 0.8}
_FEAR, _GREED = {"sentiment": {"direction": "low"}}, {"sentiment": {"direction": "high"}}
_LONGS, _CROWDS = {"funding": {"direction": "high"}}, {"funding": {"direction": "both"}}
# Who says that fear comes before losses is told so as well as who says that greed does.
VARIANTS: dict[str, Mapping[str, Any]] = {
    "fear": {**_BOUNDS, "signals": _FEAR},
    "greed": {**_BOUNDS, "signals": _GREED},
    "longs pay": {**_BOUNDS, "signals": _LONGS},
    "either side pays": {**_BOUNDS, "signals": _CROWDS},
    "fear, either side pays": {**_BOUNDS, "signals": {**_FEAR, **_CROWDS}},
    "greed, longs pay": {**_BOUNDS, "signals": {**_GREED, **_LONGS}},
}


@dataclass(frozen=True)
class Ablation:
    """By variant: cost against the preset at equal mean uncovered loss (0.01 is 1 % more collateral), over all days,
    before `HALF` and from then on; and the same of each placebo, in the same order."""

    costs: dict[str, Float64[np.ndarray, " periods"]]
    placebos: dict[str, Float64[np.ndarray, "placebos periods"]]

    @property
    def chosen(self) -> str:
        """The variant that was cheapest before `HALF`."""
        return min(self.costs, key=lambda name: self.costs[name][1])

    def p(self, name: str, period: int) -> float:
        """The share of placebos, itself among them, that cost as little."""
        as_good = self.placebos[name][:, period] <= self.costs[name][period]
        return float((1 + as_good.sum()) / (1 + len(as_good)))

    def p_of_best(self, period: int) -> float:
        """The same of the cheapest of all variants, against the cheapest of each placebo."""
        best = min(each[period] for each in self.costs.values())
        as_good = np.min([each[:, period] for each in self.placebos.values()], axis=0) <= best
        return float((1 + as_good.sum()) / (1 + len(as_good)))


def market_signals(folder: Path) -> pl.DataFrame:
    """Rows of the table `signals`: fear and greed of the day, and the mean of what longs of BTC paid on Binance in it.

    Both are known at the day's close, which is what a daily bar of that date is.
    """
    mood = read(folder, "sentiment/crypto_fear_greed_1d").select("date", name=pl.lit("sentiment"), value="fear_greed")
    funding = read(folder, "funding_oi/funding_rates").filter(pl.col("venue") == "binance", pl.col("symbol") == "BTC")
    daily = funding.group_by(date=pl.col("time").dt.date()).agg(value=pl.col("funding_rate").mean())
    rows = pl.concat(
        [each.select(pl.col("date").cast(pl.Date), "name", pl.col("value").cast(pl.Float64))
         for each in (mood, daily.with_columns(name=pl.lit("funding")))]
    )  # fmt: skip
    time = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return rows.drop_nulls().sort("name", "date").select(time.alias("time"), "name", "value")


def run(
    history: str,
    folder: Path,
    *,
    table: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Backtest:
    """The preset and its variants over a history of coins. Raises BadInput where the data is not there."""
    chosen: dict[str, Settings] = {PLAIN: {}}
    chosen |= {name: {"regime": regime} for name, regime in (table or VARIANTS).items()}
    given = market_signals(folder)
    return baselines.run(history, variants(chosen), folder, options=False, signals=given, progress=progress)


def ablation(
    daily: pl.DataFrame,
    signals: pl.DataFrame,
    table: Mapping[str, Mapping[str, Any]] = VARIANTS,
    *,
    half: date = HALF,
    placebos: int = PLACEBOS,
    block_days: int = BLOCK_DAYS,
    seed: int = 7,
    tell: Callable[[int, int], None] = lambda _, __: None,
) -> Ablation:
    """Costs of the variants in a daily table of linear portfolios, and of placebos of each.

    Signals are of the whole market, so that a multiplier is one for all accounts, and a charge with it is that of the
    preset times it; the table's own charges of the variants are what those of placebos are compared with.
    """
    plain = daily.filter(pl.col("model") == PLAIN).sort("date", "portfolio")
    loss, charged = plain["loss"].to_numpy(), plain["charged"].to_numpy()
    dates = plain["date"]
    begun = signals["time"].dt.date().min()
    days = pl.select(pl.date_range(begun, dates.max())).to_series()  # type: ignore[arg-type]
    place = (dates - days[0]).dt.total_days().to_numpy() - 1  # a margin is set at the close of the day before
    late = (dates >= half).to_numpy()
    periods = [np.ones(len(loss), bool), ~late, late]

    def costs(own: np.ndarray) -> Float64[np.ndarray, " periods"]:
        return np.array([cost(loss[rows], charged[rows], own[rows]) for rows in periods])

    found, others = {}, {name: np.empty((placebos, len(periods))) for name in table}
    for name in table:
        own = daily.filter(pl.col("model") == name).sort("date", "portfolio")
        found[name] = costs(own["charged"].to_numpy())
    rng, rows = np.random.default_rng(seed), admit(signals, "signals").rows
    for k in range(placebos):
        mixed = shuffled(rows, rng, block_days=block_days)
        for name, settings in table.items():
            others[name][k] = costs(charged * _multipliers(settings, mixed, days)[place])
        tell(k + 1, placebos)
    return Ablation(found, others)


def cost(loss: np.ndarray, plain: np.ndarray, charged: np.ndarray) -> float:
    """How much more is charged than by `plain`, as a share, once scaled to the same mean uncovered loss."""

    def uncovered(scale: float, own: np.ndarray) -> float:
        return float(np.maximum(loss - scale * own, 0).mean())

    wanted = uncovered(1.0, plain)
    scale = brentq(lambda each: uncovered(each, charged) - wanted, 1e-3, 1e3, xtol=1e-10)
    return float(scale * charged.mean() / plain.mean() - 1)


def shuffled(signals: pl.DataFrame, rng: np.random.Generator, *, block_days: int) -> pl.DataFrame:
    """The signals with blocks of days in another order, all signals in the same one, from the day on that has them all.

    What was there before stays: moved, it would leave holes in the others' time.
    """
    day = pl.col("time").dt.date()
    first, last = signals.select(day.min().over("name").max().alias("first"), day.max().alias("last")).row(0)
    days = np.arange((last - first).days + 1)
    blocks = np.array_split(days, range(block_days, len(days), block_days))
    order = np.concatenate([blocks[k] for k in rng.permutation(len(blocks))])
    moved = np.empty(len(days), np.int64)
    moved[order] = days
    offset = (day - pl.lit(first)).dt.total_days()
    return (
        signals.with_columns(
            to=pl.when(offset < 0)
            .then(offset)
            .otherwise(offset.replace_strict(days, moved, default=0, return_dtype=pl.Int64))
        )
        .with_columns(time=pl.col("time") + (pl.col("to") - offset) * timedelta(days=1))
        .drop("to")
        .sort("name", "time")
    )


def multipliers(settings: Mapping[str, Any], signals: pl.DataFrame, days: pl.Series) -> Float64[np.ndarray, " days"]:
    """The multiplier at the close of each day, of signals of the whole market."""
    return _multipliers(settings, admit(signals, "signals").rows, days)


def _multipliers(settings: Mapping[str, Any], rows: pl.DataFrame, days: pl.Series) -> Float64[np.ndarray, " days"]:
    regime = Regime.model_validate(dict(settings))
    grid = Grid(days.cast(pl.Datetime("us")).to_numpy().astype("datetime64[us]"), 1.0, 7.0)
    history = signal_history(rows, regime, ("all",), grid)
    with jax.enable_x64(True):
        return np.asarray(_path(RegimeMultiplier.from_settings(regime), SignalArrays.of(history, regime, ("all",))))


@jax.jit
def _path(multiplier: RegimeMultiplier, signals: SignalArrays) -> Any:
    return multiplier.path(signals, bars_per_day=1.0)[0][:, 0]


def report(history: str, result: Backtest, found: Ablation) -> str:
    """The tables of a history and the answer, as Markdown."""
    pooled: Mapping[str, Mapping[str, Any]] = result.judgement["pooled"]
    daily = result.daily
    names = [PLAIN, *found.costs]
    figures = [
        each for each in baselines.FIGURES if each[0] in ("breaches", "charged", "uncovered", "peak/trough", "+5 bars")
    ]
    first, last = (str(daily["date"].sort()[k]) for k in (0, -1))
    head = f"### {history}: {daily['portfolio'].n_unique()} linear portfolios, {first} to {last}\n"
    as_charged = markdown([title for title, _ in figures], {n: [show(pooled[n]) for _, show in figures] for n in names})
    titles = ["all days", "p", f"before {HALF}", f"from {HALF}", "p from then"]
    rows = {}
    for name, each in found.costs.items():
        p, later = (f"{found.p(name, period):.2f}" for period in (0, 2))
        rows[name] = [f"{each[0]:+.1%}", p, f"{each[1]:+.1%}", f"{each[2]:+.1%}", later]
    timing = markdown(titles, rows)
    told = "\nCollateral against `dynamic` at equal mean uncovered loss, and the share of placebos that do as well:\n"
    return "\n".join([head, as_charged, told, timing, "", crises(daily, names), "", verdict(found)])


def crises(daily: pl.DataFrame, names: Sequence[str]) -> str:
    """Mean uncovered loss in each crisis, each model scaled to the mean uncovered loss of the preset over all days."""
    columns: dict[str, list[str]] = {name: [] for name in names}
    plain = daily.filter(pl.col("model") == PLAIN).sort("date", "portfolio")
    lived = []
    for crisis, (begin, end) in baselines.CRISES.items():
        inside = plain["date"].is_between(begin, end).to_numpy()
        if not inside.any():
            continue
        lived.append(crisis)
        for name in names:
            own = daily.filter(pl.col("model") == name).sort("date", "portfolio")
            loss, charged = own["loss"].to_numpy(), own["charged"].to_numpy()
            more = cost(loss, plain["charged"].to_numpy(), charged)
            scale = (1 + more) * plain["charged"].mean() / charged.mean()  # type: ignore[operator]
            columns[name].append(f"{1e4 * np.maximum(loss - scale * charged, 0)[inside].mean():.1f} bp")
    return "Uncovered through crises, at equal mean uncovered loss over all days:\n\n" + markdown(lived, columns)


def verdict(found: Ablation) -> str:
    """One sentence: whether what was chosen before `HALF` saved anything afterwards, and whether chance did as well."""
    name = found.chosen
    saved, p = found.costs[name][2], found.p(name, 2)
    helps = saved < 0 and p < SIGNIFICANT
    said = f"`{name}`, the cheapest before {HALF} ({found.costs[name][1]:+.1%}), costs {saved:+.1%} from then on"
    said = f"{said} (p {p:.2f})"
    best = f"over all days chance does as well as the cheapest of all variants with p {found.p_of_best(0):.2f}"
    return f"{said}; {best}. The regime {'helps' if helps else 'does not help'} on this history."
