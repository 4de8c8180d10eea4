"""Which partition an account belongs to: a function of the text of its id, and of nothing else.

The rule is `crc32`: the CRC-32 of zlib over the UTF-8 bytes of the id, modulo the number of partitions. It is the same
on every machine, in every version and in every language.
"""

from zlib import crc32

import numpy as np
import polars as pl
from jaxtyping import UInt16

HASH = "crc32"
# Numbers of partitions are sorted as 16 bits, in linear time.
MOST = 1 << 16


def partition_numbers(ids: pl.Series, partitions: int) -> UInt16[np.ndarray, " rows"]:
    """The number of the partition of each account id, from 0; `partitions` is at most `MOST`."""
    text = ids.cast(pl.Binary).to_list()
    return (np.fromiter(map(crc32, text), np.uint32, len(text)) % partitions).astype(np.uint16)
