"""Why a program is left out of what is made of programs: no mistake of the user, so counted rather than raised."""


class CannotTransform(ValueError):
    """The program has no such variant: it does not parse, is too small, or nothing of it may change."""
