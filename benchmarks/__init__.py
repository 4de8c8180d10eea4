"""What marginax costs, measured: every figure in the README and the docs comes from here."""
