"""What the pages for people say can be typed: every command of the README runs here, or parses and names what is there.

Commands that take downloads or hours are parsed by the real parsers; of make the targets have to exist.
"""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import cv2
import pytest
import skimage.data

import run_oxford5k
from hardnet.commands import cli as hardnet_cli
from hardnet.training.recipe import load_recipe
from retrieval import config as settings
from retrieval.commands import cli
from retrieval.evaluation.rows import check_rows
from tests.conftest import view

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / "docs" / name).read_text() for name in ("guide.md", "reproduce.md")}
OWN, PAGE = "Search your own photographs", "The page"
PROGRAMS = ("make", "pip", "python", "python3", "retrieval", "hardnet", "dask")


def blocks(page, language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def section(page, title):
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)[1]


def commands(page):
    """Every command of the shell blocks as its words, without comments and NAME=VALUE before; `&&` parts commands."""
    found = []
    for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            found.append(command)
    return found


def mentions(page):
    """The commands that stand in the text, as its words."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    spans = [shlex.split(span.replace("\n", " ")) for span in re.findall(r"`([^`]+)`", text)]
    return [words for words in spans if words and words[0] in PROGRAMS and len(words) > 1]


def check(words):
    """Fails where a command is of an unknown kind, does not parse, or names what is not there."""
    program, *arguments = words
    match program, arguments:
        case "make", [target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case "pip", ["install", "-c", constraints, "-e", what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert (ROOT / constraints).is_file()
            assert set(re.fullmatch(r"\.\[(.*)\]", what)[1].split(",")) <= set(extras)
        case ("python3", ["-m", "venv", ".venv"]) | (".", [".venv/bin/activate"]):
            pass
        case "python", ["-m", module, *_]:
            assert importlib.util.find_spec(module) is not None
        case "python", ["run_oxford5k.py", *rest]:
            given = run_oxford5k._parser().parse_args(rest)
            config = settings.load(given.config, given.overrides)
            check_rows(given.rows or config.dataset.rows)
        case "retrieval", _:
            given = cli._parser().parse_args(arguments)
            settings.load(getattr(given, "config", None), getattr(given, "overrides", ()))
            check_rows(getattr(given, "rows", None) or ["bow"])
        case "hardnet", _:
            given = hardnet_cli._parser().parse_args(arguments)
            if hasattr(given, "recipe"):
                load_recipe(given.recipe, given.set)
        case "dask", [("scheduler" | "worker") as what, *rest]:
            pytest.importorskip("distributed")
            command = importlib.import_module(f"distributed.cli.dask_{what}").main
            command.make_context(f"dask {what}", rest)  # refuses options that there are not
        case "colmap", ["mapper" | "exhaustive_matcher", "--database_path", *_]:
            pass  # another program; `tests/exchange` runs it where it is installed
        case _:
            pytest.fail(f"a command that this test does not know: {shlex.join(words)}")


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def holidays(tmp_path_factory):
    """A folder with what the README's commands name: tower.jpg, holidays/ with other views of it, and queries.csv."""
    folder = tmp_path_factory.mktemp("home")
    tower, bridge = skimage.data.astronaut()[:, :, ::-1], skimage.data.coffee()[:, :, ::-1]
    photographs = {
        "tower.jpg": (tower, 0.9, 0),
        "holidays/old/tower.jpg": (tower, 0.8, 3),
        "holidays/old/tower_2.jpg": (tower, 1.0, -4),
        "holidays/new/bridge.jpg": (bridge, 0.75, 0),
        "holidays/bridge_1.jpg": (bridge, 0.65, 4),
        "holidays/bridge_2.jpg": (bridge, 0.85, -5),
        "holidays/bridge_far.jpg": (bridge, 0.3, 0),
        "holidays/2026/cat.jpg": (skimage.data.chelsea()[:, :, ::-1], 1.0, 0),
    }
    for name, (picture, scale, angle) in photographs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), view(picture, scale, angle, size=(480, 640))[0])
    (table,) = (block for block in blocks(PAGES["guide.md"], "text") if block.startswith("image,x1"))
    (folder / "queries.csv").write_text(table)
    return folder


@pytest.fixture(scope="module")
def searched(holidays):
    """The folder after the commands for one's own photographs, in their order."""
    own = [words for words in commands(section(README, OWN)) if words[0] == "retrieval"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(holidays)
        for _, *arguments in own:
            assert cli.main(arguments) == 0, arguments
    return holidays, {words[1] for words in own}


def test_your_own_photographs_are_searched(searched):
    folder, verbs = searched
    assert verbs == {"index", "query", "explain", "add", "check", "evaluate", "groups", "pairs", "export"}
    for name in ("match.png", "holidays.tsv", "database.db"):
        assert (folder / name).stat().st_size > 0


def test_python_finds_the_tower(searched, monkeypatch, capsys):
    monkeypatch.chdir(searched[0])
    (block,) = blocks(README, "python")
    assert sum(line != "" for line in block.splitlines()) <= 10
    exec(compile(block, "README.md", "exec"), {})
    found = [line.split()[1] for line in capsys.readouterr().out.splitlines() if re.match(r"\d+ \S+\.jpg", line)]
    assert set(found[:3]) == {"tower.jpg", "old/tower.jpg", "old/tower_2.jpg"}


@pytest.mark.parametrize("words", commands(README), ids=shlex.join)
def test_commands_of_the_readme(words):
    check(words)


@pytest.mark.parametrize("words", [words for page in PAGES.values() for words in commands(page)], ids=shlex.join)
def test_commands_of_the_pages(words):
    if words[0] != "curl":
        check(words)


@pytest.mark.parametrize("words", [w for page in (README, *PAGES.values()) for w in mentions(page)], ids=shlex.join)
def test_commands_in_the_text(words, capsys):
    """Their arguments may be left out, so those with a parser are asked for help, which has to know their options."""
    if words[0] not in ("retrieval", "hardnet"):
        return check(words)
    assert unknown_options(words, capsys) == []


def test_an_option_that_nobody_knows_is_told(capsys):
    assert unknown_options(["retrieval", "index", "--no-such-option"], capsys) == ["--no-such-option"]


def unknown_options(words, capsys):
    with pytest.raises(SystemExit) as stop:
        check([*words, "--help"])
    assert stop.value.code == 0
    known = set(re.findall(r"--?[\w-]+", capsys.readouterr().out))
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in known]


def test_nothing_escapes():
    """All blocks say what they hold, and commands stand in shell blocks only."""
    for page in (README, *PAGES.values()):
        assert set(re.findall(r"^```(.*)\n(?:.*\n)*?```$", page, re.MULTILINE)) <= {"sh", "python", "text"}
        for line in "".join(blocks(page, "text")).splitlines():
            assert line.split(" ")[0] not in PROGRAMS, line
    serve = [words for words in commands(section(README, PAGE)) if words[1] == "serve"]
    assert len(serve) == len(commands(section(README, PAGE))) == 1


def test_python_of_the_pages_is_python():
    for page in PAGES.values():
        for block in blocks(page, "python"):
            compile(block, "page", "exec")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("words", [["rm", "-r", "x"], ["retrieval", "fly"], ["make", "tea"]], ids=shlex.join)
def test_others_are_refused(words):
    with pytest.raises((SystemExit, AssertionError, pytest.fail.Exception)):
        check(words)
