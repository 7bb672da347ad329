"""Errors a user can act on: each message is one line that names the thing, what was wrong and what to do.

The command line prints them without a traceback and exits with code 2.
"""


class RetrievalError(Exception):
    """A problem with what the user gave (a file, a setting, an artefact), told in one line.

    Example:
        >>> try:
        ...     Retriever.open("nowhere.index")
        ... except RetrievalError as error:
        ...     print(error)
        nowhere.index is no index: there is no such folder
    """


class ConfigError(RetrievalError):
    """An unknown key, a wrong type or a value outside its range in a configuration."""


class ImageError(RetrievalError):
    """A photograph that cannot be used; the message names the file and the reason."""


class BoxError(RetrievalError):
    """A box that is none, is empty, or lies outside the photograph."""


class CandidatesError(RetrievalError):
    """Candidates for a search that are no photographs of the index, or a list that holds no names."""


class ArtefactError(RetrievalError):
    """A stored artefact that is missing, damaged, or made with settings that do not fit."""


class DeviceFullError(RetrievalError):
    """A GPU whose memory does not hold what a photograph takes."""


class ClusterError(RetrievalError):
    """A scheduler that cannot be reached, or workers that are not fit for the work; the message names them."""


class DatasetError(RetrievalError):
    """A benchmark folder or a ground-truth file that is incomplete or malformed."""
