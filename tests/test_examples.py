"""Every docstring that the API reference shows has an example, which runs here, or says why it has none."""

import doctest
import importlib
import inspect
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

import hardnet
import retrieval
from retrieval.commands.cli import main
from tests.conftest import view

PAGES = Path(__file__).parents[1] / "docs" / "reference"
SHOWN = re.compile(r"^\.\. auto(\w+):: ([\w.]+).*\n((?:   :.*\n)*)", re.MULTILINE)

PHOTOGRAPHS = {  # name: picture, scale, angle, width and height
    "holidays/tower.jpg": (skimage.data.astronaut, 1.1, 0, (480, 640)),
    "holidays/old/tower_2.jpg": (skimage.data.astronaut, 0.9, 4, (480, 560)),
    "holidays/bridge.jpg": (skimage.data.coffee, 0.8, 0, (480, 400)),
    "holidays/bridge_2.jpg": (skimage.data.coffee, 0.7, -5, (480, 400)),
    "holidays/cat.jpg": (skimage.data.chelsea, 1.0, 0, (450, 300)),
    "photo.jpg": (skimage.data.astronaut, 1.0, -3, (480, 560)),
}


@dataclass(frozen=True)
class Shown:
    """An object of the reference: its name there, itself, and what a reader of its page has imported."""

    name: str
    value: object
    names: dict[str, object]

    @property
    def text(self) -> str:
        return inspect.getdoc(self.value) or ""


def resolve(name: str) -> object:
    """The object of a dotted name."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def members(name: str, kind: type, inherited: bool):
    """The methods of a class that the reference shows: public ones; its example stands for its attributes."""
    places = kind.__mro__[:-1] if inherited else (kind,)
    for member in sorted({key for place in places for key in vars(place)}):
        value = getattr(kind, member)
        if not member.startswith("_") and (inspect.isfunction(value) or inspect.ismethod(value)):
            yield f"{name}.{member}", value


def shown() -> list[Shown]:
    """What the pages of the reference show, in their order."""
    faces = {name: getattr(retrieval, name) for name in retrieval.__all__} | {"np": np, "hardnet": hardnet}
    everything = []
    for page in sorted(PAGES.glob("*.md")):
        directives = SHOWN.findall(page.read_text(encoding="utf-8"))
        found = [(kind, name, resolve(name), options) for kind, name, options in directives]
        names = faces | {name.rsplit(".")[-1]: value for kind, name, value, _ in found if kind != "module"}
        for kind, name, value, options in found:
            errors = [one for one in getattr(value, "__bases__", ()) if one in names.values()]
            if kind != "exception" or not errors:  # one example stands for all errors of a base
                everything.append(Shown(name, value, names))
            if ":members:" in options:
                inherited = ":inherited-members:" in options
                everything += [Shown(*one, names) for one in members(name, value, inherited)]
    return everything


def run(one: Shown) -> tuple[int, str]:
    """How many examples an object's docstring has, and what is wrong with them."""
    test = doctest.DocTestParser().get_doctest(one.text, dict(one.names), one.name, None, 0)
    told: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    return len(test.examples), "".join(told)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of photographs and their index, made as a reader makes it."""
    folder = tmp_path_factory.mktemp("examples")
    for name, (picture, scale, angle, size) in PHOTOGRAPHS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), view(picture()[:, :, ::-1], scale, angle, size=size)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["index", "holidays/", "-o", "holidays.index", "--set", "parallel.jobs=1"]) == 0
    return folder


@pytest.fixture(scope="module")
def untouched(prepared, tmp_path_factory):
    """Gives a copy of the folder as it was; the same one until an example has changed it."""
    copies = []

    def copy():
        if not copies or state(copies[-1][0]) != copies[-1][1]:
            folder = shutil.copytree(prepared, tmp_path_factory.mktemp("copy") / "copy")
            copies.append((folder, state(folder)))
        return copies[-1][0]

    return copy


def state(folder):
    """All that changes when a file is written, moved, added or removed."""
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found]


@pytest.mark.parametrize("one", shown(), ids=lambda one: one.name)
def test_examples(one, untouched, monkeypatch):
    monkeypatch.chdir(untouched())
    count, wrong = run(one)
    assert not wrong, wrong
    assert count or "No example: " in one.text, f"{one.name} has neither an example nor a reason why not"


def test_the_pages_show_what_they_should():
    names = {one.name for one in shown()}
    assert {"retrieval.Retriever.query", "retrieval.Collection.newest", "hardnet.load", "hardnet.HardnetError"} <= names
    assert not {"retrieval.Collection.features", "hardnet.WeightsError"} & names


def test_a_wrong_example_is_found():
    def planted():
        """Adds.

        >>> 1 + 1
        3
        """

    assert "Expected:\n    3\nGot:\n    2\n" in run(Shown("planted", planted, {}))[1]
    assert run(Shown("bare", lambda: None, {})) == (0, "")
