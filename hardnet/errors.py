"""Errors a user can act on; the command line prints the one line and exits with code 2."""


class WeightsError(Exception):
    """Weights that cannot be found, fetched, read or used; one line that says which file and what to do."""
