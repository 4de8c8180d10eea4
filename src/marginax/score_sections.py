"""The section of a configuration that belongs to the stress score of every account."""

from itertools import pairwise

from pydantic import Field, model_validator

from marginax.sections import Section


class Score(Section):
    """Bands of the stress score, and how its smooth form is smoothed; no margin changes by them."""

    watch: float = Field(0.01, gt=0, le=1, description="stress score from which on an account is in the band `watch`")
    reduce: float = Field(0.05, gt=0, le=1, description="the same of the band `reduce`")
    liquidate: float = Field(0.25, gt=0, le=1, description="the same of the band `liquidate`")
    bandwidth: float = Field(
        0.1, gt=0, le=10, description="half-width of the smoothing, share of the account's expected shortfall"
    )
    least_bandwidth: float = Field(
        0.01, gt=0, le=10, description="least half-width, share of the mean absolute moves of all that is held, summed"
    )

    @model_validator(mode="after")
    def _rising(self) -> "Score":
        for (low, first), (high, second) in pairwise(self.thresholds.items()):
            if second <= first:
                raise ValueError(
                    f"`{high}` {second:g} is not above `{low}` {first:g}; bands follow one another as scores rise"
                )
        return self

    @property
    def thresholds(self) -> dict[str, float]:
        """The least score of each band above `healthy`, rising."""
        return {"watch": self.watch, "reduce": self.reduce, "liquidate": self.liquidate}
