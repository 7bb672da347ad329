"""The names that the packages hand on, and what importing them loads."""

import subprocess
import sys

import pytest

import retrieval

HEAVY = ("torch", "faiss", "cv2", "numpy", "scipy", "joblib", "yaml", "numba")


def loaded(code):
    """Which heavy modules a fresh interpreter has loaded after some code."""
    ask = f"{code}; import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True).stdout.split()


def test_the_package_alone_loads_nothing_heavy():
    assert loaded("import retrieval, retrieval.errors; retrieval.__version__") == []


@pytest.mark.parametrize("name", ["Config", "Hit", "Collection", "Retriever", "detect_regions", "describe_regions"])
def test_faces_load_no_network(name):
    found = loaded(f"from retrieval import {name}")
    assert "torch" not in found
    assert "faiss" not in found
    assert "numpy" in found or name == "Config"  # so the question above can be answered with yes


@pytest.mark.parametrize("name", sorted({*retrieval.__all__} - {"__version__"}))
def test_a_face_is_the_thing_itself(name):
    found = getattr(retrieval, name)
    assert found is getattr(sys.modules[found.__module__], name)
    assert name in dir(retrieval)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Retreiver'"):
        _ = retrieval.Retreiver
    with pytest.raises(ImportError):
        from retrieval import nothing  # noqa: F401
