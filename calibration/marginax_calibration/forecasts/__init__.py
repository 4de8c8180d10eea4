"""Forecasts of tomorrow's variance: features of a day, a small network, its rivals, and the scores that judge them."""
