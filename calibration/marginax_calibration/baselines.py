"""The six baselines that every other model must beat, by preset."""

BASELINES = ("fixed_legs", "static", "hs", "ewma", "garch", "fhs")
