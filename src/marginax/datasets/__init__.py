"""Books too large for memory: tables partitioned by account, on disk."""

from marginax.datasets.dataset import Dataset, Partition, open_dataset
from marginax.datasets.partition import partition_book

__all__ = ["Dataset", "Partition", "open_dataset", "partition_book"]
