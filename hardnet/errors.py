"""Errors a user can act on; the command line prints the one line and exits with code 2."""


class HardnetError(Exception):
    """A problem with what the user gave, told in one line that says what to do.

    Example:
        >>> try:  # doctest: +ELLIPSIS
        ...     hardnet.load("nothing.pth")
        ... except hardnet.HardnetError as error:
        ...     print(error)
        nothing.pth is no file and no weights name; the names are ...
    """


class WeightsError(HardnetError):
    """Weights that cannot be found, fetched, read or used; one line that says which file and what to do."""


class PrecisionError(HardnetError):
    """A descriptor that cannot be computed in the precision that was asked for; one line that says why."""


class DeviceMemoryError(HardnetError):
    """A device whose memory does not hold the least that a step takes; one line that says what to do."""


class PatchSetError(HardnetError):
    """Patches that cannot be found or read, or that disagree with what describes them."""


class TrainingError(HardnetError):
    """A training run that cannot start or go on: settings, an earlier run's state, a loss that is no number."""


class SettingsError(HardnetError):
    """An unknown key, a wrong type or a value outside its range in a settings file."""
