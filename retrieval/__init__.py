"""Photographs in, ranked photographs out: local features, visual words, verification, expansion."""

__version__ = "0.1.0"
