"""Calibration by gradient: which numbers are free, what is wanted of margins, and the search for the best."""

from marginax_calibration.fitting.fit import fit
from marginax_calibration.fitting.fit_file import save_fit
from marginax_calibration.fitting.objective import Weights
from marginax_calibration.fitting.result import Fit
from marginax_calibration.fitting.state import NotFinite, Settings
from marginax_calibration.fitting.walk import Walk, walk_forward
from marginax_calibration.judgement import read_groups

__all__ = ["Fit", "NotFinite", "Settings", "Walk", "Weights", "fit", "read_groups", "save_fit", "walk_forward"]
