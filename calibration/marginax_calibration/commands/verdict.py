"""What a person wants to know of a backtest, in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

PIPED, NAMED = 140, 5
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
    """One line a model over all portfolio-days, how many portfolios reject it, and what was left out."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED
    pooled = judgement["pooled"]
    days = next(iter(pooled.values()))["days"]
    console.print(
        f"\n[bold]{len(judgement['portfolios'])} portfolios, {days:,} portfolio-days[/bold]; VaR and ES at {tail:g}, "
        "amounts in % of gross notional\n"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("model")
    for title, _ in COLUMNS:
        table.add_column(title, justify="right")
    table.add_column("rejected by")
    for model, figures in sorted(pooled.items(), key=lambda item: item[1]["mean_fz0"]):
        counts = judgement["rejections"][model]
        worst = max(counts, key=lambda test: counts[test])
        table.add_row(model, *(_cell(key, figures) for _, key in COLUMNS), f"{counts[worst]} ({worst})")
    console.print(table)
    for key, words in (("late_or_short", "begin late or end early"), ("left_out", "have no row")):
        named = judgement[key]
        if named:
            shown = ", ".join(list(named)[:NAMED]) + (", ..." if len(named) > NAMED else "")
            console.print(f"\n{len(named)} portfolios {words}: {shown}")


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
