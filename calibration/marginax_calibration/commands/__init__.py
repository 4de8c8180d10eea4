"""The commands of floor 3, found by the entry points `marginax.commands`; nothing heavy is imported until one runs."""
