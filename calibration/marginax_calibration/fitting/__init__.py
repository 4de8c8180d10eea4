"""Calibration by gradient: which numbers are free, what is wanted of margins, and the search for the best."""
