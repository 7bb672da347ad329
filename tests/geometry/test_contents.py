"""Results compare by their contents, and no dataclass of the packages raises when it is compared or hashed."""

import dataclasses
import importlib
import inspect
import pkgutil
from dataclasses import replace

import numpy as np
import pytest

import hardnet
import retrieval
from retrieval import Retriever
from retrieval.geometry.contents import ByContents

NAME, OTHER = "scenes/coffee_0.jpg", "scenes/coffee_1.jpg"


@pytest.fixture(scope="module")
def twice(index):
    """The same asked of two retrievers: nothing is the same object."""
    return Retriever.open(index), Retriever.open(index)


def test_hits_of_equal_contents_are_equal(twice):
    (first, second), (again, _) = (one.query(NAME, top=2) for one in twice)
    assert first is not again
    assert first == again
    assert hash(first) == hash(again)
    assert len({first, second, again}) == 2
    assert first != second
    assert first != "a hit"
    moved = first.matches.copy()
    moved[0, 0, 0] += 1
    for change in ({"matches": moved}, {"matches": first.matches[1:]}, {"transform": None}, {"rank": 7}):
        assert replace(first, **change) != first
    assert [first, second].index(second) == 1  # what lists do


def test_explanations_and_queries_too(twice):
    first, again = (one.explain(NAME, OTHER) for one in twice)
    assert first == again
    assert len({first, again}) == 1
    assert first.shared == again.shared
    assert first.placement == again.placement
    assert first != twice[0].explain(NAME, NAME)
    changed = replace(first, shared=replace(first.shared, contributions=first.shared.contributions * 2))
    assert changed != first
    assert twice[0].prepare(NAME) == twice[1].prepare(NAME) != twice[0].prepare(OTHER)
    noise = np.kron(np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8), np.ones((10, 10), np.uint8))
    features = [one.queries.described(noise) for one in twice]
    assert len(features[0].regions)
    assert features[0] == features[1]
    assert features[0] != replace(features[1], regions=features[1].regions + 1)


def test_the_type_of_an_array_does_not_make_unequal_hashes(twice):
    (hit,) = twice[0].query(NAME, top=1)
    other = replace(hit, matches=hit.matches.astype(np.float64))
    assert hit == other
    assert hash(hit) == hash(other)


def dataclasses_with_arrays():
    """All of both packages."""
    for package in (retrieval, hardnet):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                here = vars(importlib.import_module(module.name)).values()
                classes = [one for one in here if inspect.isclass(one) and one.__module__ == module.name]
                yield from filter(has_arrays, classes)


def has_arrays(one):
    """Whether a class is a dataclass with arrays."""
    return dataclasses.is_dataclass(one) and any("ndarray" in str(field.type) for field in dataclasses.fields(one))


def test_every_dataclass_of_arrays_says_how_it_compares():
    """What `dataclass` writes compares tuples of fields, and two arrays have no one truth value."""
    found = list(dataclasses_with_arrays())
    assert len(found) > 30
    written = [one.__qualname__ for one in found if one.__dataclass_params__.eq]
    assert written == [], "derive these from ByContents or give them eq=False"
    by_contents = {one.__name__ for one in found if issubclass(one, ByContents)}
    assert by_contents >= {"Hit", "Explanation", "SharedWords", "Placement", "QueryFeatures", "ImageFeatures"}
