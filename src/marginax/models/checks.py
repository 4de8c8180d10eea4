"""What a configuration asks of a model on scenarios that this one cannot give."""

import numpy as np

from marginax.config import Config
from marginax.history import FactorHistory
from marginax.problems import BadInput, Problem
from marginax.scenarios.given import GivenScenarios
from marginax.scenarios.source import ScenarioSource

# Sections of the configuration that only some models read: what would be left out of a margin in silence is refused.
CHARGES = (
    "stress_period",
    "dependence",
    "correlation_break",
    "procyclicality",
    "orders",
    "liquidity",
    "oracle",
    "liquidation",
    "regime",
)


def check_read(config: Config, reads: tuple[str, ...], name: str) -> None:
    """Refuse what a configuration sets and its model, which knows the sections `reads`, would leave out in silence."""
    unread = [
        f"{each}" for each in CHARGES if each not in reads and getattr(config, each) != type(getattr(config, each))()
    ]
    cuts = [f"collateral.{key}" for key in ("limits", "sizes", "wrong_way") if getattr(config.collateral, key)]
    cuts += ["funding.projected"] if config.funding.projected else []
    own = (word for word, each in config.classes.parameters.items() if each.liquidation_fee is not None)
    cuts += [f"classes.parameters.{word}.liquidation_fee" for word in own]
    unread += [] if reads else cuts
    if unread:
        what, remedy = f"is set, and `{name}` does not read it", "Remove it, or take the model `dynamic`"
        raise BadInput([Problem("configuration", unread[0], None, what, remedy)])
    if config.correlation.follow and config.scenarios.source != "filtered_historical":
        what, remedy = "is true, and only filtered historical scenarios follow correlations", "Remove it"
        raise BadInput([Problem("configuration", "correlation.follow", None, what, remedy)])


def check_tail(tail: float, key: str, source: ScenarioSource | GivenScenarios, history: FactorHistory) -> None:
    """Refuse a tail thinner than the heaviest scenario: its answer would be one loss whatever `tail` says."""
    if isinstance(source, GivenScenarios):
        return
    effective = source.effective_count(history)
    if effective * tail >= 1 - 1e-9:  # 100 scenarios at 0.01 are one, up to rounding
        return
    what = (
        f"`{key}={tail:g}` of {effective:.3g} scenarios is {effective * tail:.2g} of a scenario, so the answer would "
        f"be the worst loss whatever `{key}` says"
    )
    least = int(np.ceil(1 / tail - 1e-9))
    if source.drawn:
        remedy = f"Draw at least {least} (`monte_carlo.draws`), or widen the tail"
        raise BadInput([Problem("configuration", f"risk.{key}", None, what, remedy)])
    remedy = f"Give at least {least + 1} bars and a `scenarios.window` of {least}, or widen the tail"
    raise BadInput([Problem("history", None, None, what, remedy, table="history")])
