"""What a wheel holds."""

from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import retrieval

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def builder():
    return WheelBuilder(str(ROOT))


def test_the_wheel_holds_what_is_not_python(builder):
    files = {Path(one.distribution_path).as_posix() for one in builder.recurse_included_files()}
    for package in ("retrieval", "hardnet"):
        inside = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {path.relative_to(ROOT).as_posix() for path in inside} <= files
    assert {f"retrieval/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= files
    assert {"retrieval/reporting/report.html", "retrieval/web/static/index.html"} <= files
    assert not [name for name in files if name.split("/")[0] not in ("retrieval", "hardnet")]
    assert not [name for name in files if name.startswith("retrieval/configs/hardnet")]
    recipes = builder.recurse_forced_files(builder.config.get_force_include())
    forced = {Path(one.distribution_path).as_posix() for one in recipes}
    assert {f"hardnet/configs/{path.name}" for path in (ROOT / "configs" / "hardnet").glob("*.yaml")} == forced


def test_one_version(builder):
    assert builder.metadata.version == retrieval.__version__
