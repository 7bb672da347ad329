"""run_oxford5k.py beyond photographs and boxes: features from elsewhere, and the revisited protocol, end to end."""

import json

import cv2
import numpy as np
import pytest

import run_oxford5k
from retrieval.geometry.verification import verify
from retrieval.search import postings
from tests.features.test_imported import ellipse_of, some_regions, write_ctu

FEW_WORDS = ["vocabulary.words=40", "vocabulary.iterations=3", "parallel.jobs=1", "hqe.min_inliers=4"]


def sift_of(random, prototypes, count):
    """SIFT near some of the prototypes, so that images of one scene share words."""
    chosen = prototypes[:count].astype(int) + random.integers(-2, 3, (count, 128))
    return chosen.clip(1, 255).astype(np.uint8)


def write_groundtruth(folder, names):
    """Two queries: the first three images are one landmark, the last three the other."""
    folder.mkdir(parents=True)
    for landmark, own, others in (("one_1", names[:3], names[3:]), ("two_1", names[3:], names[:3])):
        lists = {"query": f"oxc1_{own[0]} 5 5 635 475", "good": own[0], "ok": "\n".join(own[1:]), "junk": others[2]}
        for kind, text in lists.items():
            (folder / f"{landmark}_{kind}.txt").write_text(text + "\n")


@pytest.mark.parametrize("sizes", [True, False])
def test_the_files_of_ctu_without_photographs(tmp_path, capsys, sizes):
    """The layout of the public files: names, counts, SIFT and ellipses of "oxford" and "paris"."""
    random = np.random.default_rng(3)
    names = [f"landmark_{number:06d}" for number in range(6)]
    write_groundtruth(tmp_path / "data" / "oxford5k" / "groundtruth", names)
    scenes = random.integers(5, 120, (2, 60, 128))
    places = [some_regions(random, 60) for _ in range(2)]
    for prefix in ("oxford", "paris"):
        counts = random.integers(40, 60, 6).tolist()
        sift = np.concatenate([sift_of(random, scenes[i // 3], count) for i, count in enumerate(counts)])
        regions = np.concatenate([places[i // 3][:count] for i, count in enumerate(counts)])
        write_ctu(tmp_path / "ctu", prefix, sift, np.array([ellipse_of(region) for region in regions]), counts, names)
        if sizes:
            (tmp_path / "ctu" / f"{prefix}_sizes.txt").write_text("640 480\n" * 6)
    arguments = [
        "--features",
        str(tmp_path / "ctu"),
        "--data",
        str(tmp_path / "data"),
        "--work",
        str(tmp_path / "work"),
    ]
    settings = [part for setting in FEW_WORDS for part in ("--set", setting)]
    config = ["--config", "configs/oxford5k-rootsift-hqe.yaml"]
    assert run_oxford5k.main([*config, *arguments, *settings]) == 0
    report = json.loads((tmp_path / "work" / "results.json").read_text())
    rows = report["results"]["imported"]
    assert list(rows) == ["bow", "hqe", "hqe+ma", "hqe+sv", "hqe+sv+ma", "asmk", "asmk+sv"]
    assert all(cell["map"] == pytest.approx(1.0) for cell in rows.values())
    assert report["timings"]["imported"]["images"] == 6
    # what is published for RootSIFT stands beside, with its note
    assert rows["hqe+sv+ma"]["published"] == 0.88
    assert rows["asmk"]["published"] is None
    page = (tmp_path / "work" / "report.html").read_text(encoding="utf-8")
    assert "Features were made elsewhere" in page
    assert "published as rootsift" in page
    assert page.count("<i class=") == page.count("<i class=gone>") > 2 * 7  # there are no photographs
    out = capsys.readouterr().out
    assert "ASMK*" in out
    assert "published: geometry not stated" in out
    assert run_oxford5k.main(["--config", "configs/demo.yaml", *arguments]) == 2
    assert "--features goes with oxford5k" in capsys.readouterr().err


def test_the_revisited_protocol(photos, tmp_path, capsys, monkeypatch):
    """Queries are cropped, are not in the database, and every protocol has its figures."""
    data = tmp_path / "data"
    images = data / "oxford5k" / "images"
    images.mkdir(parents=True)
    for name in ("coffee_0", "coffee_1", "coffee_2", "astronaut_0", "astronaut_1"):
        (images / f"{name}.jpg").write_bytes((photos / "scenes" / f"{name}.jpg").read_bytes())
    words = data / "paris6k" / "images"
    words.mkdir(parents=True)
    for name in ("cat", "brick"):
        (words / f"{name}.png").write_bytes((photos / f"{name}.png").read_bytes())
    tree = {
        "imlist": ["astronaut_0", "astronaut_1", "coffee_1", "coffee_2"],
        "qimlist": ["coffee_0"],
        "gnd": [{"bbx": [30.5, 20, 450, 380], "easy": [2], "hard": [3], "junk": [0]}],
    }
    (data / "roxford5k").mkdir()
    (data / "roxford5k" / "gnd_roxford5k.json").write_text(json.dumps(tree))
    settings = ["descriptor.name=rootsift", "vocabulary.words=300", "vocabulary.iterations=3", "parallel.jobs=1"]
    arguments = ["--config", "configs/roxford5k.yaml", "--data", str(data), "--work", str(tmp_path / "work")]
    arguments += [part for setting in settings for part in ("--set", setting)]
    sides = []
    monkeypatch.setattr(postings, "verify", lambda *given: sides.append(given[2]) or verify(*given))
    assert run_oxford5k.main(arguments) == 0
    crop = cv2.imread(str(data / "roxford5k" / "queries" / "coffee_0.png"))
    whole = cv2.imread(str(images / "coffee_0.jpg"), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert max(crop.shape) < max(whole.shape)
    assert set(sides) == {max(whole.shape)}  # the tolerance is the photograph's, not the crop's
    report = json.loads((tmp_path / "work" / "results.json").read_text())
    assert report["timings"]["rootsift"]["images"] == 4
    for row in ("bow", "bow+sv", "bow+sv+qe", "hqe+ma", "hqe+sv+ma", "asmk", "asmk+sv"):
        cell = report["results"]["rootsift"][row]
        assert cell["map"] == cell["protocols"]["medium"]["map"]
        assert set(cell["protocols"]) == {"easy", "medium", "hard"}
        if row == "hqe+ma":
            continue  # of four images all are reliable: without geometry, strangers merge into the query
        assert {name: one["map"] for name, one in cell["protocols"].items()} == {
            "easy": 1.0,
            "medium": 1.0,
            "hard": 1.0,
        }
        assert cell["protocols"]["medium"]["mp@10"] == 1.0
    page = (tmp_path / "work" / "report.html").read_text(encoding="utf-8")
    assert "<td>BoW</td><td>hard</td><td>100.0</td>" in page
    assert '<li class="easy"><i class=p' in page
    assert '<span class="pic p0"' in page  # the crop
    assert "gone>" not in page
    out = capsys.readouterr().out
    assert "ROxford5k" in out
    assert "| HQE + SV + MA | easy | 100.0 | 100.0 | 100.0 | 100.0 |" in out
