"""Photographs in, ranked photographs out: local features, visual words, verification, expansion.

>>> from retrieval import Retriever
>>> retriever = Retriever.open("holidays.index")
>>> hits = retriever.query("tower.jpg", top=10)

What the package hands on is imported when it is asked for: ``import retrieval`` alone loads neither torch nor faiss.
"""

import importlib
from typing import TYPE_CHECKING, Any

from retrieval.version import __version__

if TYPE_CHECKING:
    from retrieval.config import Config
    from retrieval.features.detector import detect_regions
    from retrieval.features.extractor import describe_regions
    from retrieval.pairs.faces import Collection, Retriever
    from retrieval.search.ranking import Hit

__all__ = ["Collection", "Config", "Hit", "Retriever", "__version__", "describe_regions", "detect_regions"]

_HOMES = {
    "Collection": "retrieval.pairs.faces",
    "Config": "retrieval.config",
    "Hit": "retrieval.search.ranking",
    "Retriever": "retrieval.pairs.faces",
    "describe_regions": "retrieval.features.extractor",
    "detect_regions": "retrieval.features.detector",
}


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
