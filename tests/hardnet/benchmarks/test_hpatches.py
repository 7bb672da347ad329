"""The HPatches tasks against plain loops over the definitions."""

import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardnet
from hardnet.benchmarks import hpatches
from hardnet.benchmarks.hpatches import average_precision, evaluate_hpatches
from hardnet.commands.cli import main
from hardnet.errors import PatchSetError
from hardnet.patchsets.hpatches import read_strip
from hardnet.patchsets.resize import resize_patches
from tests.hardnet.patch_fixtures import PixelDescriptor, write_hpatches

COUNTS = {"i_dome": 12, "v_wall": 9, "v_graf": 7}


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setattr(hpatches, "POSITIVES", 400)
    monkeypatch.setattr(hpatches, "NEGATIVES", 2000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hpatches")
    write_hpatches(folder, COUNTS)
    return folder


def loop_average_precision(distances, correct, total=None):
    """Trapezoids under precision over recall, entry by entry."""
    ranking = sorted(zip(distances, correct, strict=True))  # at equal distances False comes first
    total = sum(correct) if total is None else total
    area, found, recall, precision = 0.0, 0, 0.0, 1.0
    for rank, (_, is_correct) in enumerate(ranking, 1):
        found += is_correct
        before = recall, precision
        recall, precision = (found / total if total else 0.0), found / rank
        area += (recall - before[0]) * (precision + before[1]) / 2
    return area


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40), st.integers(0, 5))
@settings(max_examples=150)
def test_average_precision_is_that_of_a_loop(entries, more):
    distances, correct = np.array([d for d, _ in entries], float), np.array([c for _, c in entries], bool)
    total = int(correct.sum()) + more
    expected = loop_average_precision(distances.tolist(), correct.tolist(), total)
    assert average_precision(distances, correct, total) == pytest.approx(expected)
    if not more:
        assert average_precision(distances, correct) == pytest.approx(expected)


def test_average_precision_by_hand():
    yes, no = True, False
    assert average_precision(np.array([1, 2, 3, 4.0]), np.array([yes, yes, no, no])) == 1.0
    assert average_precision(np.array([1, 2.0]), np.array([yes, no]), 2) == 0.5
    assert average_precision(np.array([1, 2.0]), np.array([no, yes])) == 0.25
    assert average_precision(np.array([1, 1.0]), np.array([yes, no])) == 0.25
    with pytest.raises(ValueError, match="2 correct of 1"):
        average_precision(np.array([1, 2.0]), np.array([yes, yes]), 1)
    with pytest.raises(ValueError, match="labels"):
        average_precision(np.array([1, 2.0]), np.array([yes]))


def described(folder, name, strip):
    return PixelDescriptor().describe(resize_patches(read_strip(folder / name / f"{strip}.png"), 8))


def test_matching_is_that_of_a_loop(folder):
    result = evaluate_hpatches(PixelDescriptor(), folder, tasks=["matching"])
    assert set(result.scores) == set(result.means) == {"matching"}
    for level in ("easy", "hard", "tough"):
        kinds = {"i": [], "v": []}
        for name in COUNTS:
            precisions = []
            for image in range(1, 6):
                reference, target = described(folder, name, "ref"), described(folder, name, f"{level[0]}{image}")
                distances, correct = [], []
                for row, one in enumerate(reference):
                    to = [math.dist(one, other) for other in target]
                    distances.append(min(to))
                    correct.append(to.index(min(to)) == row)
                precisions.append(loop_average_precision(distances, correct, len(reference)))
            kinds[name[0]].append(np.mean(precisions))
        expected = np.mean([np.mean(kinds["i"]), np.mean(kinds["v"])])
        assert result.scores["matching"][level] == pytest.approx(expected, abs=1e-6)
    assert 0 < result.scores["matching"]["tough"] < result.scores["matching"]["easy"]


def test_retrieval_is_that_of_a_loop(folder, monkeypatch):
    # Every patch is a query or a distractor, half and half; the pools are fixed, so that the order of draws counts.
    monkeypatch.setattr(hpatches, "POOLS", (6, 12, 1000))
    monkeypatch.setattr(hpatches, "_TOGETHER", 2)
    draws = []
    monkeypatch.setattr(hpatches.np.random, "default_rng", lambda seed: Recorder(seed, draws))
    result = evaluate_hpatches(PixelDescriptor(), folder, tasks=["retrieval"], seed=3)
    patches = [(name, row) for name in sorted(COUNTS) for row in range(COUNTS[name])]
    # exponential keys as long as the sequence make sequences, not patches, equally likely
    assert draws[0][0].tolist() == [COUNTS[name] for name, _ in patches]
    drawn = [patches[k] for k in np.argsort(draws[0][1])]
    queries, distractors = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    for level in ("easy", "hard", "tough"):
        scores = {6: [], 12: []}
        for name, row in queries:
            query = described(folder, name, "ref")[row]
            targets = [math.dist(query, described(folder, name, f"{level[0]}{k}")[row]) for k in range(1, 6)]
            others = [math.dist(query, described(folder, other, "ref")[r]) for other, r in distractors if other != name]
            for pool, found in scores.items():
                distances = (targets + others)[:pool]
                correct = [True] * 5 + [False] * (pool - 5)
                found.append(loop_average_precision(distances, correct))
        assert set(result.details["retrieval"][level]) == {"6", "12"}
        for pool, found in scores.items():
            assert result.details["retrieval"][level][str(pool)] == pytest.approx(np.mean(found), abs=1e-6)


class Recorder:
    """A generator that keeps what it drew."""

    def __init__(self, seed, draws):
        self.generator, self.draws = np.random.Generator(np.random.PCG64(seed)), draws

    def exponential(self, scale):
        self.draws.append((scale, self.generator.exponential(scale)))
        return self.draws[-1][1]


def test_verification_pairs(folder, monkeypatch):
    """The pairs that are compared are of the kinds that the task says."""
    order = sorted(COUNTS)
    total, compared = sum(COUNTS.values()), []

    def of(place):
        image, patch = divmod(place, total)
        for name in order:
            if patch < COUNTS[name]:
                return int(image), name, int(patch)
            patch -= COUNTS[name]
        raise AssertionError

    real = hpatches.pair_distances

    def spy(left_rows, left, right_rows, right):
        compared.append([(of(a), of(b)) for a, b in zip(left, right, strict=True)])
        return real(left_rows, left, right_rows, right)

    monkeypatch.setattr(hpatches, "pair_distances", spy)
    result = evaluate_hpatches(PixelDescriptor(), folder, tasks=["verification"])
    positive, inter, intra = compared[:3]
    assert (len(positive), len(inter), len(intra)) == (400, 2000, 2000)
    assert all(a[0] != b[0] for pairs in compared for a, b in pairs)  # of two images
    assert all(a[1:] == b[1:] for a, b in positive)
    assert all(a[1] != b[1] for a, b in inter)
    assert all(a[1] == b[1] and a[2] != b[2] for a, b in intra)
    assert {place for pair in inter for place in pair} == {
        (image, name, row) for image in range(5) for name in order for row in range(COUNTS[name])
    }
    # and the rows behind the places are those of the images
    rows = [
        np.concatenate([described(folder, name, strip) for name in order]) for strip in ("ref", "h1", "h2", "h3", "h4")
    ]
    at = {
        (i, name, r): rows[i][sum(COUNTS[n] for n in order[: order.index(name)]) + r]
        for i in range(5)
        for name in order
        for r in range(COUNTS[name])
    }
    distances = [math.dist(at[a], at[b]) for a, b in positive + intra]
    expected = loop_average_precision(distances, [True] * 400 + [False] * 2000)
    assert result.details["verification"]["hard"]["intra"] == pytest.approx(expected, abs=1e-6)


def test_all_tasks(folder):
    descriptor = PixelDescriptor()
    result = evaluate_hpatches(descriptor, folder)
    assert descriptor.described == result.patches == 16 * sum(COUNTS.values())
    assert result.sequences == ("i_dome", "v_graf", "v_wall")
    for task in hpatches.TASKS:
        scores = list(result.scores[task].values())
        assert scores == sorted(scores, reverse=True)  # easy, hard, tough
        assert result.means[task] == pytest.approx(np.mean(scores))
        assert 0 < scores[2] < scores[0] <= 1
    assert evaluate_hpatches(PixelDescriptor(), folder) == result
    other = evaluate_hpatches(PixelDescriptor(), folder, seed=1)
    assert other.scores["verification"] != result.scores["verification"]
    assert other.scores["matching"] == result.scores["matching"]
    # a task gives the same whether or not the others run
    assert (
        evaluate_hpatches(PixelDescriptor(), folder, tasks=["retrieval"]).scores["retrieval"]
        == result.scores["retrieval"]
    )


class ConstantDescriptor(PixelDescriptor):
    def _describe_batch(self, batch):
        return np.full((len(batch), self.dimensions), 0.125, np.float32)


def test_a_descriptor_that_tells_nothing_apart_gains_nothing(folder):
    result = evaluate_hpatches(ConstantDescriptor(), folder)
    assert result.means["verification"] < 0.1
    assert result.means["retrieval"] < 0.5
    assert result.means["matching"] < 0.02


def test_textureless_patches_are_neither_query_nor_distractor(tmp_path, monkeypatch):
    draws = []
    write_hpatches(tmp_path, {"v_a": 6, "v_b": 6})
    monkeypatch.setattr(hpatches.np.random, "default_rng", lambda seed: Recorder(seed, draws))
    flat = read_strip(tmp_path / "v_b" / "ref.png")
    flat[2:4] = 90
    cv2.imwrite(str(tmp_path / "v_b" / "ref.png"), np.concatenate(flat))
    evaluate_hpatches(PixelDescriptor(), tmp_path, tasks=["retrieval"])
    assert len(draws[0][1]) == 10


def test_too_few_sequences(folder):
    for task in ("verification", "retrieval"):
        with pytest.raises(PatchSetError, match="only the matching task"):
            evaluate_hpatches(PixelDescriptor(), folder, ["v_wall"], [task])
    assert evaluate_hpatches(PixelDescriptor(), folder, ["v_wall"], ["matching"]).sequences == ("v_wall",)
    with pytest.raises(ValueError, match="tasks must be some of"):
        evaluate_hpatches(PixelDescriptor(), folder, tasks=["detection"])
    with pytest.raises(PatchSetError, match="v_wal; did you mean"):
        evaluate_hpatches(PixelDescriptor(), folder, ["v_wal"])


def test_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hardnet, "load", lambda name, device, precision: PixelDescriptor())
    (tmp_path / "splits.json").write_text(json.dumps({"a": {"test": ["v_wall", "v_graf"], "train": ["i_dome"]}}))
    arguments = ["evaluate", "hpatches", str(folder)]
    assert main([*arguments, "--split", str(tmp_path / "splits.json"), "a", "--descriptor", "mine"]) == 0
    out = capsys.readouterr().out
    assert "2 sequences, 256 patches, seed 0" in out
    expected = evaluate_hpatches(PixelDescriptor(), folder, ["v_wall", "v_graf"])
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in out.splitlines() if line.startswith("  mine")}
    for task in hpatches.TASKS:
        figures = [*expected.scores[task].values(), expected.means[task]]
        assert rows["mine", task] == [f"{100 * figure:.2f}" for figure in figures]
    assert "not the 116 sequences" in out
    assert "not read from the published lists" in out
    assert "published: rSIFT              matching" in out
    assert "52.76" in out
    assert "88.43" in out
    assert main([*arguments, "--sequences", "v_wall", "--tasks", "matching", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["comparable"] is False
    assert report["results"]["hardnet"]["sequences"] == ["v_wall"]
    assert set(report["results"]["hardnet"]["scores"]) == {"matching"}
    assert main([*arguments, "--sequences", "v_wall"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_has_examples(capsys):
    for verbs in (["brown"], ["hpatches"]):
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", *verbs, "--help"])
        assert caught.value.code == 0
        assert f"hardnet evaluate {verbs[0]} data/" in capsys.readouterr().out
