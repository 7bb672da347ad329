import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from retrieval.datasets.benchmarks import Source, database_images
from retrieval.datasets.groundtruth import OXFORD
from retrieval.datasets.oxford import PARIS_CORRUPT, is_damaged, match_images, read_groundtruth
from retrieval.errors import DatasetError
from retrieval.features.imported import import_features
from retrieval.photographs.folder import ImageSet

FILES = {
    "tower_1_query.txt": "oxc1_tower_000001 1.5 2 30.5 40\n",
    "tower_1_good.txt": "tower_000001\ntower_000002\n",
    "tower_1_ok.txt": "tower_000003\r\n\r\n",
    "tower_1_junk.txt": "",
    "arch_2_query.txt": "paris_general_000009 0 0 1 1",
    "arch_2_good.txt": "",
    "arch_2_ok.txt": "paris_general_000009\nparis_louvre_000136\n",
    "arch_2_junk.txt": "paris_triomphe_000867\ntower_000001\n",
}


def real_data() -> Path:
    folder = os.environ.get("RETRIEVAL_REAL_DATA")
    if not folder:
        pytest.skip("RETRIEVAL_REAL_DATA is unset: the real ground truth is not checked")
    return Path(folder)


def write(folder: Path, files: Mapping[str, str | None]) -> Path:
    for name, text in files.items():
        if text is not None:
            (folder / name).write_bytes(text.encode())
    return folder


def test_reads_queries_sorted_without_prefix(tmp_path: Path) -> None:
    truth = read_groundtruth(write(tmp_path, FILES))
    assert truth.protocols == (OXFORD,)
    assert truth.queries_in_database
    arch, tower = truth.queries
    assert (arch.name, arch.image, arch.box) == ("arch_2", "paris_general_000009", (0.0, 0.0, 1.0, 1.0))
    assert (tower.name, tower.image, tower.box) == ("tower_1", "tower_000001", (1.5, 2.0, 30.5, 40.0))
    assert tower.labels == {"good": {"tower_000001", "tower_000002"}, "ok": {"tower_000003"}, "junk": set()}
    assert tower.relevant(OXFORD) == ({"tower_000001", "tower_000002", "tower_000003"}, set())


def test_damaged_paris_photographs_are_dropped(tmp_path: Path) -> None:
    arch = read_groundtruth(write(tmp_path, FILES)).queries[0]
    assert len(PARIS_CORRUPT) == 20
    assert arch.relevant(OXFORD) == ({"paris_general_000009"}, {"tower_000001"})


def test_damaged_paris_photographs_in_any_spelling() -> None:
    for stem in PARIS_CORRUPT:
        short = stem.removeprefix("paris_")
        for name in (
            stem,
            f"{stem}.jpg",
            f"{stem.upper()}.JPG",
            f"x/{stem}.jpg",
            short,
            f"oxc1_{stem}",
            f"a\\{stem}.jpg.sift",
        ):
            assert is_damaged(name), name
    for name in ("paris_louvre_000137", "louvre_0001360", "paris_louvre_000136_1", "my_louvre", "all_souls_000136"):
        assert not is_damaged(name), name


@pytest.mark.parametrize("with_features", [False, True])
def test_damaged_paris_photographs_are_left_out_on_every_path(tmp_path: Path, with_features: bool) -> None:
    names = ("louvre/paris_louvre_000136.JPG", "louvre/paris_louvre_000137.jpg")
    for folder in ("paris6k/images", "oxford5k/images"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    if with_features:
        for name in ("paris6k", "oxford5k"):
            folder = tmp_path / "features" / name
            folder.mkdir(parents=True)
            lines = [json.dumps({"name": image, "width": 9, "height": 9}) for image in names]
            (folder / "images.jsonl").write_text("\n".join(lines))
            for image in names:
                (folder / image).parent.mkdir(exist_ok=True)
                np.save(folder / f"{image}.regions.npy", np.float32([[4, 4, 1, 0, 1, 0]]))
                np.save(folder / f"{image}.descriptors.npy", np.eye(1, 128, dtype=np.float32))
    source = Source(tmp_path, features=tmp_path / "features" if with_features else None)
    assert database_images(source, "paris6k").names == names[1:]
    assert database_images(source, "oxford5k").names == names  # no damage is known of Oxford's
    if with_features:
        paris = database_images(source, "paris6k").names
        store = import_features(tmp_path / "features", "paris6k", tmp_path / "store", images=paris)
        assert store.names == names[1:]
        assert store.features == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tower_1_ok.txt", None, "tower_1_ok.txt is missing"),
        ("tower_1_junk.txt", "a\n\nb c\n", "tower_1_junk.txt, line 3"),
        ("tower_1_query.txt", "", "tower_1_query.txt, line 1"),
        ("tower_1_query.txt", "x 1 2 3 4\ny 1 2 3 4\n", "tower_1_query.txt, line 1"),
        ("tower_1_query.txt", "x 1 2 3\n", "line 1: expected 'image x1 y1 x2 y2'"),
        ("tower_1_query.txt", "\nx 1 2 three 4\n", "line 2: the box is not four numbers"),
        ("tower_1_query.txt", "x 3 2 3 4\n", "line 1: the box is empty"),
        ("tower_1_query.txt", "x 1 5 3 4\n", "line 1: the box is empty"),
        ("tower_1_query.txt", "x 1 nan 3 4\n", "line 1: the box is empty"),
        ("tower_1_good.txt", "\udce9", "tower_1_good.txt cannot be read"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    write(tmp_path, {**FILES, name: None if text == "\udce9" else text})
    if text == "\udce9":
        (tmp_path / name).write_bytes(b"\xe9\n")
    with pytest.raises(DatasetError, match=message):
        read_groundtruth(tmp_path)


def test_folder_without_ground_truth(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no ground truth"):
        read_groundtruth(tmp_path)
    with pytest.raises(DatasetError, match="not a folder"):
        read_groundtruth(tmp_path / "missing")


def test_match_images(tmp_path: Path) -> None:
    truth = read_groundtruth(write(tmp_path, FILES))
    names = (
        "a/tower_000001.jpg",
        "a/tower_000002.jpg",
        "b/tower_000003.png",
        "paris_general_000009.jpg",
        "x.jpg",
    )
    assert match_images(truth, ImageSet(tmp_path, names)) == {
        "paris_general_000009": "paris_general_000009.jpg",
        "tower_000001": "a/tower_000001.jpg",
        "tower_000002": "a/tower_000002.jpg",
        "tower_000003": "b/tower_000003.png",
    }
    with pytest.raises(DatasetError, match=r"lacks tower_000002.*2 of 4 images are missing") as caught:
        match_images(truth, ImageSet(tmp_path, (names[0], names[3])))
    assert str(tmp_path) in str(caught.value)


def test_real_oxford_ground_truth() -> None:
    queries = read_groundtruth(real_data() / "oxford5k_groundtruth").queries
    assert len(queries) == 55
    positives, junk = zip(*(query.relevant(OXFORD) for query in queries), strict=True)
    assert all(query.image in found for query, found in zip(queries, positives, strict=True))
    assert sum(map(len, positives)) == 2840
    assert len(frozenset.union(*positives)) == 567
    assert len(frozenset.union(*junk)) == 282


def test_real_paris_ground_truth() -> None:
    folder = real_data() / "paris6k_groundtruth"
    assert len(read_groundtruth(folder).queries) == 55
    # leaving the damaged photographs out changes no list of the benchmark
    assert not any(PARIS_CORRUPT & set(path.read_text().split()) for path in folder.glob("*.txt"))
