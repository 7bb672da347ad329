"""The version, in the one place where it stands: the build and every module read it here."""

__version__ = "0.1.0"
