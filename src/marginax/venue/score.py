"""One number for how close the venue itself is to trouble: the protocol risk score, in [0, 1).

    score = x / (1 + x),    x = sum over components of weight x component / scale

Conventions: every component is a number from 0 up, and more of it is worse. The score rises when any component with a
weight rises and nothing else changes; it is 0 only where all are 0, and a half where they come to one scale in all. It
orders states of one venue under one configuration; it is no probability. Infinite components give the greatest number
below 1. `marginax.venue_sections` has the scales.

Money is measured in the resources R = insurance fund + `resources`, an amount that is configured. Neither grows with
the book: a larger book is a greater risk to the same venue. Where the book is not all known, money is infinitely much.

| component | is |
|---|---|
| open_interest | the larger side, over R |
| expected_bad_debt, tail_bad_debt | mean and tail quantile of the loss beyond equity, over R |
| exhaustion | probability that this loss is beyond the fund |
| beyond_fund | tail mean of what is left of it then, over R |
| beyond_margins | tail mean of the loss beyond margins, over R; 0 where it is not told |
| at_risk_share | share of the gross open interest that accounts at risk hold |
| concentration | Herfindahl of the more concentrated side, mean over underlyings by their open interest |
| delta_at_risk | loss of accounts at risk, taken as one, if each price moved by 10 % against them, over R |
| gamma_at_risk | what their gamma adds to that loss where they are short of it, by underlying, over R |
| vega_at_risk | the same of a move of every volatility by 0.1, over R |
| margin_shortfall | what margins that follow open interest would ask beyond what is asked, over R |
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from marginax.venue.losses import known
from marginax.venue_sections import SCALES, Venue


def risk_score(components: Mapping[str, float], settings: Venue) -> float:
    """The score of components by name, all of `SCALES`; a number in [0, 1). Raises KeyError for one that is missing."""
    total = sum(_terms(components, settings).values())
    return float(min(total / (1 + total) if np.isfinite(total) else 1.0, np.nextafter(1.0, 0.0)))


def score_notes(components: Mapping[str, float], settings: Venue) -> dict[str, Any]:
    """What the manifest says: the score, and of each component its value, its scale and its share of x."""
    terms = _terms(components, settings)
    total = sum(terms.values())
    return {
        "score": risk_score(components, settings),
        "components": {
            name: {
                "value": known(components[name]),
                "scale": settings.scales.get(name, SCALES[name]),
                "weight": settings.weights.get(name, 1.0),
                "share": known(term / total) if 0 < total < np.inf else None,
            }
            for name, term in terms.items()
        },
    }


def over(amount: float, resources: float) -> float:
    """An amount in resources; without any, all that there is is infinitely much. What nobody knows is that too."""
    if np.isnan(amount):
        return float("inf")
    if resources > 0:
        return float(amount / resources)
    return float("inf") if amount > 0 else 0.0


def _terms(components: Mapping[str, float], settings: Venue) -> dict[str, float]:
    found = {}
    for name, usual in SCALES.items():
        weight = settings.weights.get(name, 1.0)
        # A weight of zero leaves a component out, however large it is.
        found[name] = weight * components[name] / settings.scales.get(name, usual) if weight else 0.0
    return found
