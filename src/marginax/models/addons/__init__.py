"""Parts of a margin beside the expected shortfall: each a small module that can be switched off or swapped alone."""
