"""The command line: it parses words, calls the library, prints what came back, and holds no logic of its own."""

from marginax.cli.app import main

__all__ = ["main"]
