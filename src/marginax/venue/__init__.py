"""What the accounts of a venue add up to: open interest and its Greeks, concentration, bad debt, a risk score."""

from marginax.venue.score import risk_score
from marginax.venue.sums import VenueSums
from marginax.venue.view import VenueView, venue_of, venue_view

__all__ = ["VenueSums", "VenueView", "risk_score", "venue_of", "venue_view"]
