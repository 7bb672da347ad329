"""The contracts of `make lint` about imports: they hold, and each fails on what it forbids."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def house(tmp_path):
    """A copy of the code, to plant faults in."""
    for package in ("retrieval", "hardnet"):
        for file in (ROOT / package).rglob("*.py"):
            target = tmp_path / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def contracts(folder):
    """The exit code of the check, and what it says."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = ["--no-cache", "--no-logo"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def plant(file, line):
    file.write_text(f"{file.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")


def test_the_house_as_it_is(house):
    code, said = contracts(house)
    assert code == 0, said
    assert "4 kept, 0 broken" in said


@pytest.mark.parametrize(
    ("place", "line", "contract"),
    [
        (
            "retrieval/storage/atomic.py",
            "def lazily():\n    from retrieval.search import ranker",
            "retrieval: no arrow",
        ),
        ("retrieval/features/store.py", "import retrieval.index.state", "retrieval: no arrow"),
        ("retrieval/index/state.py", "import retrieval.patchsets.views", "retrieval: no arrow"),
        ("retrieval/index/opened.py", "def lazily():\n    from retrieval.index import changes", "no circles"),
        ("hardnet/weights/table.py", "import hardnet.descriptors.networks", "hardnet: no arrow"),
        ("hardnet/files.py", "def lazily():\n    import retrieval.errors", "library of its own"),
    ],
)
def test_a_planted_arrow_is_told(house, place, line, contract):
    plant(house / place, line)
    code, said = contracts(house)
    assert code == 1, said
    assert any(contract in told and "BROKEN" in told for told in said.splitlines()), said


def test_a_room_without_a_floor_is_told(house):
    (house / "retrieval" / "cellar").mkdir()
    (house / "retrieval" / "cellar" / "__init__.py").write_text("")
    code, said = contracts(house)
    assert code == 1
    assert "cellar" in said


def test_few_modules_outside_the_rooms():
    assert len([path for path in (ROOT / "retrieval").glob("*.py") if path.name != "__init__.py"]) <= 3
