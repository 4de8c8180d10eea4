"""Readable NumPy twins of what marginax computes fast: loops and sorts, float64, nothing shared with the kernels."""
