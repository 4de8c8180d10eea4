"""What the study of calibration wants of fitted numbers out of sample, and whether it was reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import polars as pl

from marginax_calibration.backtests import judge
from marginax_calibration.fitting.walk import FITTED
from marginax_calibration.studies import baselines
from marginax_calibration.studies.baselines import markdown

HAND = "by hand"
RATE = (0.007, 0.012)
REJECTED_AT, REJECTED, SIGNIFICANT = 0.05, 0.2, 0.05
SHOWN = ("breaches", "FZ0", "charged", "uncovered", "peak/trough", "+5 bars")
FIGURES = tuple((title, show) for title, show in baselines.FIGURES if title in SHOWN)


@dataclass(frozen=True)
class Aims:
    """The most that is charged over what `static` charges; where `all_of_them`, also coverage, Diebold-Mariano tests,
    uncovered losses, rises, and the most that is charged by kind over what `fixed_legs` does."""

    charged: float = 0.85
    all_of_them: bool = True
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"long": 0.75, "short": 0.75, "spread": 0.35, "neutral": 0.35}
    )


@dataclass(frozen=True)
class Target:
    """One target: what it is, what is wanted, what was reached, and whether that is enough."""

    name: str
    wanted: str
    reached: str
    met: bool


def verdict(rivals: pl.DataFrame, mine: pl.DataFrame, portfolios: Sequence[str] | None = None) -> dict[str, Any]:
    """The judgement of all models on the rows that all have, of some portfolios or of all."""
    daily = pl.concat([rivals, mine.select(rivals.columns)])
    if portfolios is not None:
        daily = daily.filter(pl.col("portfolio").is_in(list(portfolios)))
    every = daily["model"].n_unique()
    counts = daily.group_by("date", "portfolio").agg(pl.col("model").n_unique().alias("models"))
    common = daily.join(counts.filter(pl.col("models") == every), on=["date", "portfolio"], how="semi")
    return judge(common.sort("date", "portfolio", "model"))


def targets(judgement: Mapping[str, Any], aims: Aims, name: str = FITTED) -> list[Target]:
    """Each target and whether it was reached."""
    pooled = judgement["pooled"]
    mine, static = pooled[name], pooled["static"]
    rest = [model for model in pooled if model not in (name, HAND)]
    best = min(rest, key=lambda model: pooled[model]["mean_fz0"])
    cost = mine["mean_charged"] / static["mean_charged"]
    common = [
        Target(
            "FZ0 below every baseline's",
            "below the best",
            f"{mine['mean_fz0']:.3f} against {pooled[best]['mean_fz0']:.3f} (`{best}`)",
            mine["mean_fz0"] < pooled[best]["mean_fz0"],
        ),
        Target("charged, over that of `static`", f"{aims.charged:g} at most", f"{cost:.3f}", cost <= aims.charged),
    ]
    return [*common, *_rest(judgement, aims, name, rest)] if aims.all_of_them else common


def _rest(judgement: Mapping[str, Any], aims: Aims, name: str, rest: Sequence[str]) -> list[Target]:
    pooled, portfolios = judgement["pooled"], judgement["portfolios"]
    mine = pooled[name]
    rate = mine["breaches"] / mine["days"]
    rejected = sum(each[name]["conditional_coverage_p"] < REJECTED_AT for each in portfolios.values())
    kept = 1 - rejected / len(portfolios)
    worst = max(rest, key=lambda model: (pooled[model]["mean_fz0"] < mine["mean_fz0"], mine["dm_p"][model]))
    p, better = mine["dm_p"][worst], pooled[worst]["mean_fz0"] < mine["mean_fz0"]
    left = mine["mean_uncovered_loss"] / pooled["static"]["mean_uncovered_loss"]
    rise = mine["max_increase_5d"] / pooled["fhs"]["max_increase_5d"]
    found = [
        Target(
            "Diebold-Mariano p against each, which scores worse",
            f"below {SIGNIFICANT:g}",
            f"{p:.3f} (`{worst}`{', which scores better' if better else ''})",
            p < SIGNIFICANT and not better,
        ),
        Target("breaches of VaR 99", "0.7 to 1.2 %", f"{rate:.2%}", RATE[0] <= rate <= RATE[1]),
        Target("conditional coverage not rejected at 5 %", "80 % at least", f"{kept:.0%}", kept >= 1 - REJECTED),
        Target("uncovered, over that of `static`", "1 at most", f"{left:.2f}", left <= 1),
        Target("greatest five-day rise, over that of `fhs`", "0.9 at most", f"{rise:.2f}", rise <= 0.9),
    ]
    for kind, most in aims.kinds.items():
        if kind in judgement["kinds"]:
            each = judgement["kinds"][kind]
            share = each[name]["mean_charged"] / each["fixed_legs"]["mean_charged"]
            what = f"{kind}: charged, over that of `fixed_legs`"
            found.append(Target(what, f"{most:g} at most", f"{share:.3f}", share <= most))
    return found


def target_table(reached: Mapping[str, Sequence[Target]]) -> str:
    """Targets down, histories or parameter sets across, as Markdown; what is missed is bold."""
    lines = [f"| target | wanted | {' | '.join(reached)} |", f"|---|---|{'---:|' * len(reached)}"]
    wanted = {each.name: each.wanted for each in next(iter(reached.values()))}
    for name, words in wanted.items():
        cells = []
        for found in reached.values():
            mine = next((each for each in found if each.name == name), None)
            shown = "-" if mine is None else mine.reached
            cells.append(shown if mine is None or mine.met else f"**{shown}**")
        lines.append(f"| {name} | {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def excluded(reached: Mapping[str, Sequence[Target]]) -> str:
    """Which targets no parameter set met, and which pairs none met together, in Markdown."""
    met = {label: {each.name for each in found if each.met} for label, found in reached.items()}
    names = [each.name for each in next(iter(reached.values()))]
    never = [name for name in names if not any(name in each for each in met.values())]
    pairs = [
        f"{one} / {other}"
        for one, other in combinations([name for name in names if name not in never], 2)
        if not any({one, other} <= each for each in met.values())
    ]
    most = max(met, key=lambda label: len(met[label]))
    lines = [f"- Most targets are met by `{most}`: {len(met[most])} of {len(names)}."]
    lines.append(f"- Met by none: {'; '.join(never) or 'no target'}.")
    lines.append(f"- Met by some, but never together: {'; '.join(pairs) or 'no two targets'}.")
    return "\n".join(lines)


def table(judgement: Mapping[str, Any]) -> str:
    """Pooled figures of all models as Markdown, with the Diebold-Mariano p of the fitted one against each."""
    pooled = judgement["pooled"]
    titles = [*(title for title, _ in FIGURES), f"DM p of `{FITTED}`"]
    rows = {}
    for model, each in pooled.items():
        p = pooled[FITTED]["dm_p"].get(model)
        rows[model] = [*(show(each) for _, show in FIGURES), "-" if p is None else f"{p:.3f}"]
    return markdown(titles, rows)
