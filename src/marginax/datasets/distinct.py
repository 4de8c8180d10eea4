"""Different ids among those that come in pieces."""

import polars as pl


class Distinct:
    """The different texts among those added so far. At most twice as many are kept as there are different ones, and a
    piece."""

    def __init__(self) -> None:
        self._seen = pl.Series(dtype=pl.String)
        self._pieces: list[pl.Series] = []

    def add(self, ids: pl.Series) -> None:
        """Take in a piece."""
        self._pieces.append(ids.unique())
        if sum(map(len, self._pieces)) > len(self._seen):
            self._merge()

    def ids(self) -> pl.Series:
        """All different ones, in no order."""
        self._merge()
        return self._seen

    def _merge(self) -> None:
        self._seen = pl.concat([self._seen, *self._pieces]).unique()
        self._pieces = []
