"""`hardnet describe`: a file of patches becomes a file of rows, whole or not at all."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import hardnet
from hardnet.commands.cli import main
from hardnet.commands.describe import describe_file
from hardnet.descriptors.networks import HardNet
from hardnet.errors import HardnetError
from hardnet.patchsets.resize import resize_patches
from hardnet.weights.checkpoints import write_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    torch.manual_seed(0)
    write_network(path, HardNet().eval(), "hardnet", {})
    return path


def write_strip(path: Path, count: int, width: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    patches = np.stack([cv2.blur(noise, (5, 5)) for noise in random.integers(0, 256, (count, width, width), np.uint8)])
    cv2.imwrite(str(path), patches.reshape(count * width, width))
    return patches


def read_rows(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return np.loadtxt(path, np.float32, delimiter="," if path.suffix == ".csv" else None, ndmin=2)


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".txt"])
@pytest.mark.parametrize(("count", "width"), [(3, 65), (1, 32), (2, 24)])
def test_every_format_holds_the_descriptors_exactly(tmp_path, weights, capfd, suffix, count, width):
    patches = write_strip(tmp_path / "ref.png", count, width)
    output = tmp_path / f"rows{suffix}"
    given = ["--descriptor", str(weights), "--precision", "float32"]
    assert main(["describe", str(tmp_path / "ref.png"), str(output), *given]) == 0
    rows = read_rows(output)
    assert rows.shape == (count, 128)
    assert rows.dtype == np.float32
    expected = hardnet.load(weights, precision="float32")
    np.testing.assert_array_equal(rows, expected.describe(resize_patches(patches, 32)))
    captured = capfd.readouterr()
    assert captured.out == f"{output}: {count} patches described by mine.safetensors\n"
    assert captured.err == ""  # no progress bar where there is no terminal


def test_csv_is_what_the_benchmark_reads(tmp_path, weights):
    write_strip(tmp_path / "ref.png", 2, 40)
    main(["describe", str(tmp_path / "ref.png"), str(tmp_path / "ref.csv"), "--descriptor", str(weights)])
    lines = (tmp_path / "ref.csv").read_text().splitlines()
    assert [line.count(",") for line in lines] == [127, 127]


def test_more_patches_than_are_resized_together(tmp_path, monkeypatch):
    monkeypatch.setattr("hardnet.commands.describe._TOGETHER", 3)
    patches = write_strip(tmp_path / "ref.png", 8, 50)
    descriptor = hardnet.load("rootsift")
    assert describe_file(tmp_path / "ref.png", tmp_path / "rows.npy", descriptor) == 8
    expected = descriptor.describe(resize_patches(patches, descriptor.patch_size))
    np.testing.assert_allclose(read_rows(tmp_path / "rows.npy"), expected, atol=1e-5)


def test_an_existing_output_is_replaced(tmp_path):
    write_strip(tmp_path / "ref.png", 2, 41)
    (tmp_path / "rows.npy").write_bytes(b"old")
    assert main(["describe", str(tmp_path / "ref.png"), str(tmp_path / "rows.npy"), "--descriptor", "rootsift"]) == 0
    assert len(read_rows(tmp_path / "rows.npy")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ref.png", "rows.npy"]


def test_folders_of_the_output_are_made(tmp_path):
    write_strip(tmp_path / "ref.png", 2, 41)
    describe_file(tmp_path / "ref.png", tmp_path / "new" / "folder" / "rows.npy", hardnet.load("rootsift"))
    assert len(read_rows(tmp_path / "new" / "folder" / "rows.npy")) == 2


def test_a_failure_leaves_the_old_output_and_nothing_else(tmp_path, monkeypatch):
    write_strip(tmp_path / "ref.png", 2, 41)
    (tmp_path / "rows.npy").write_bytes(b"old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(HardnetError, match=r"rows\.npy cannot be written \(No space left on device\)"):
        describe_file(tmp_path / "ref.png", tmp_path / "rows.npy", hardnet.load("rootsift"))
    assert (tmp_path / "rows.npy").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ref.png", "rows.npy"]


def test_errors_are_one_line(tmp_path, weights, capsys):
    strip = tmp_path / "ref.png"
    write_strip(strip, 2, 41)
    cv2.imwrite(str(tmp_path / "odd.png"), np.zeros((50, 41), np.uint8))
    (tmp_path / "folder.npy").mkdir()

    def error(patches, output, *options):
        assert main(["describe", str(patches), str(output), *options]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    rootsift = ("--descriptor", "rootsift")
    assert "rows.mat has an unknown suffix" in error(strip, tmp_path / "rows.mat", *rootsift)
    assert "nowhere.png" in error(tmp_path / "nowhere.png", tmp_path / "rows.npy", *rootsift)
    assert "odd.png" in error(tmp_path / "odd.png", tmp_path / "rows.npy", *rootsift)
    assert "it is a folder" in error(strip, tmp_path / "folder.npy", *rootsift)
    assert "cannot be written" in error(strip, strip / "rows.npy", *rootsift)
    assert "no weights name" in error(strip, tmp_path / "rows.npy", "--descriptor", "hardnut")
    assert "CPU only" in error(strip, tmp_path / "rows.npy", *rootsift, "--device", "cuda")
    assert "'gpu' is no device" in error(
        strip, tmp_path / "rows.npy", "--descriptor", str(weights), "--device", "gpu", "--batch-size", "7"
    )
    assert not (tmp_path / "rows.npy").exists()


@pytest.mark.parametrize("options", [["--batch-size", "0"], ["--descriptor", "rootsift", "--onnx", "a.onnx"]])
def test_wrong_usage(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["describe", "ref.png", "rows.npy", *options])
    assert caught.value.code == 2
    assert "usage: hardnet describe" in capsys.readouterr().err


def test_real_patches(tmp_path, weights):
    data = os.environ.get("RETRIEVAL_REAL_DATA")
    path = Path(data) / "hpatches_ref.png" if data else None
    if path is None or not path.is_file():
        pytest.skip("RETRIEVAL_REAL_DATA is unset or has no hpatches_ref.png")
    assert describe_file(path, tmp_path / "ref.csv", hardnet.load(weights)) == 1123
    rows = read_rows(tmp_path / "ref.csv")
    assert rows.shape == (1123, 128)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    similarities = rows @ rows.T
    assert (similarities.argmax(axis=1) == np.arange(1123)).mean() > 0.99  # different points, different rows
