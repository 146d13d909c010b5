"""How often a property is tried: in full by `make test`, less often by `make check`."""

from hypothesis import settings

USUAL = 100
"""How many examples hypothesis tries where nothing is said."""


def examples(whole: int) -> int:
    """Return as much of `whole` as the profile that is loaded tries of the usual number."""
    return max(1, whole * min(USUAL, settings().max_examples) // USUAL)
