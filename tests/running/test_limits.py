"""Collections of more files than a process may have open by default."""

import argparse
import gc
import os
import resource

import numpy as np
import pytest

from retrieval.commands.shared import run_command
from retrieval.features import store
from retrieval.features.store import FeatureStore, ImageFeatures


@pytest.fixture
def few_files():
    """The usual limit, made smaller: 64 files more than are open."""
    gc.collect()  # indexes that tests before this one have opened
    opened = set(map(int, os.listdir("/proc/self/fd")))
    few = [number for number in range(len(opened) + 65) if number not in opened][64]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_command_opens_a_store_of_many_shards(few_files, tmp_path):
    shards, settings = 60, {"descriptor": {"name": "some"}}
    plan = {"settings": settings, "precision": "float32", "quantisation": [0.0, 1.0], "shard_images": 1}
    store.write_plan(
        tmp_path / "features", {**plan, "shards": shards, "images": [[f"{i}", 1, 1] for i in range(shards)]}
    )
    for i in range(shards):
        one = ImageFeatures(f"{i}", 10, 10, np.full((2, 6), i, np.float32), np.zeros((2, 4), np.uint8))
        store.write_shard(tmp_path / "features", i, [one], [], 4, settings)
    with pytest.raises(Exception, match="Too many open files"):
        FeatureStore.open(tmp_path / "features")

    def command(arguments):
        opened = FeatureStore.open(tmp_path / "features")
        assert [float(image.regions[0, 0]) for image in opened.images()] == list(range(shards))
        return 0

    assert run_command(command, argparse.Namespace(log_level="error")) == 0
