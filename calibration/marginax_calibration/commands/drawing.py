"""What draws, where it is installed."""

from types import ModuleType

from marginax.problems import BadInput, Problem


def pictures() -> ModuleType:
    """The module that draws. Raises BadInput where the extra `report` is not installed."""
    try:
        from marginax_calibration.studies import pictures as found
    except ModuleNotFoundError as error:
        what, remedy = f"{error.name} draws, and is not installed", "Install it: pip install 'marginax[report]'"
        raise BadInput([Problem("picture", None, None, what, remedy)]) from None
    return found
