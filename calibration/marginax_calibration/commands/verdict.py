"""What a person wants to know of a backtest, in the terminal."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from marginax_calibration.pooled import FEWEST

PIPED, NAMED = 180, 5
COLUMNS = (
    ("breaches", "breaches"),
    ("Kupiec p", "kupiec_p"),
    ("indep. p", "independence_p"),
    ("Z2 p", "z2_p"),
    ("zone", "basel_zone"),
    ("FZ0", "mean_fz0"),
    ("charged", "mean_charged"),
    ("uncovered", "mean_uncovered_loss"),
    ("worst", "max_uncovered_loss"),
    ("peak/trough", "peak_to_trough"),
    ("+5 bars", "max_increase_5d"),
)


def print_verdict(judgement: dict[str, Any], *, tail: float) -> None:
    """One line a model over all portfolio-days, the best score first, and who is not there from end to end."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED
    pooled, settings = judgement["pooled"], judgement["settings"]
    count, days = len(judgement["portfolios"]), next(iter(pooled.values()))["days"]
    charged = sorted({f"{charge:.3g}" for charge in settings["charge_tail"].values()})
    console.print(
        f"\n[bold]{count} portfolios, {days:,} portfolio-days from {settings['first']} to {settings['last']}[/bold]\n"
        f"VaR and ES at {tail:.3g}, so many breaches are expected; charged is ES at {', '.join(charged)}; amounts in % "
        "of gross notional; the lowest FZ0 first\n"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("model", no_wrap=True)
    for title, _ in COLUMNS:
        table.add_column(title, justify="right")
    if len(pooled) > 1:
        table.add_column("DM p")
    table.add_column(f"rejected, of {count}", no_wrap=True)
    ranked = sorted(pooled.items(), key=lambda item: item[1]["mean_fz0"])
    best = ranked[0][0]
    for model, figures in ranked:
        counts = judgement["rejections"][model]
        worst = max(counts, key=lambda test: counts[test])
        rejected = f"{counts[worst]} ({worst})" if counts[worst] else "0"
        versus = figures["dm_p"].get(best)
        apart = "" if model == best or versus is None else f"{versus:.3f}"
        cells = [_cell(key, figures) for _, key in COLUMNS]
        table.add_row(model, *cells, *([apart] if len(pooled) > 1 else []), rejected)
    console.print(table)
    for line in _notes(judgement, best):
        console.print(f"\n{line}", soft_wrap=True)
    for key, words in (("late_or_short", "late or short"), ("left_out", "without a row")):
        named = judgement[key]
        if named:
            reasons = Counter(each["reason"] if isinstance(each, dict) else each for each in named.values())
            console.print(f"\nPortfolios {words} ({len(named)}; `{key}` names them):")
            for reason, portfolios in reasons.most_common(NAMED):
                console.print(f"  {portfolios:>3}  {reason}", soft_wrap=True)
            if len(reasons) > NAMED:
                console.print("  ...")


def _notes(judgement: dict[str, Any], best: str) -> Iterator[str]:
    """What the table does not say by itself."""
    pooled, settings = judgement["pooled"], judgement["settings"]
    versus = f"DM p: low where the score is worse than that of {best} beyond chance. " if len(pooled) > 1 else ""
    yield (
        f"{versus}Zone: Basel's traffic light. Uncovered and worst: mean and greatest loss beyond what was charged. "
        "+5 bars: greatest rise of a charge in five bars. Rejected: portfolios by the test that rejects most of them, "
        "at a false discovery rate of 5 %."
    )
    few = [model for model, figures in pooled.items() if figures["breach_days"] < FEWEST]
    if few and len(judgement["portfolios"]) > 1:
        yield (
            f"Fewer than {FEWEST} days have a breach of {', '.join(few)}: too few to tell how far breaches come "
            "together, so that p-values and zone are those of one portfolio with the mean number of them."
        )
    floored = {model: count for model, count in judgement["es_floored"].items() if count}
    if floored:
        counts = ", ".join(f"{model} {count:,}" for model, count in floored.items())
        yield (
            f"Rows whose ES is the floor of {settings['least_es']:g} (hedged books, options on calm prices), where "
            f"FZ0 is near -14, millions on a breach, and outweighs others: {counts}."
        )
    if judgement["between_bars"]:
        counts = ", ".join(f"{name} {count:,}" for name, count in judgement["between_bars"].items())
        yield f"Prices between the bars of a portfolio's slowest leg, whose moves come with its next bar: {counts}."


def _cell(key: str, figures: dict[str, Any]) -> str:
    value = figures[key]
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if key == "breaches":
        return f"{value / figures['days']:.2%}"
    if key.endswith("_p"):
        return f"{value:.3f}"
    if key in ("mean_charged", "mean_uncovered_loss", "max_uncovered_loss"):
        return f"{100 * value:.3f}"
    return f"{value:+.0%}" if key.startswith("max_increase") else f"{value:.2f}"
