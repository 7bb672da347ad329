"""A process that was forked after a search searches as well, and does not wait for threads that it has not got.

Each in a process of its own: this one has had its threads for long.
"""

import os
import subprocess
import sys

import pytest

from tests.depth import thinned

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

SECONDS = 600  # a child that has not ended by then is one that waits for ever
PARENT = """
import os, signal, sys, threading, time

def descends(work, expected):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() == expected else 3
        finally:
            os._exit(code)
    ends = time.monotonic() + {seconds}
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "it waits for ever"

{work}
if {opened_only}:  # the children do the first work, and what it should come to is known from another process
    import json
    first = json.loads(sys.stdin.read())
    work_ = work
    work = lambda: json.loads(json.dumps(work_()))
else:
    first = work()
assert len(first)
found = [descends(work, first), descends(work, first)]
other = threading.Thread(target=lambda: found.append(descends(work, first)))  # forked by another thread
other.start()
other.join()
print(*found)
"""
SEARCH = """
from retrieval import Retriever
retriever = Retriever.open({index!r})
def work():
    return [(hit.name, hit.inliers, round(hit.score, 3)) for hit in retriever.query({photo!r})]
"""
DESCRIBE = """
import numpy as np, hardnet
descriptor = hardnet.load("hardnet")
patches = np.random.default_rng(0).integers(0, 256, (500, 32, 32), dtype=np.uint8)
def work():
    return descriptor.describe(patches).round(2).tolist()
"""
NETWORK = """
import numpy as np, torch
torch.set_num_threads(2)
def work():
    from retrieval import Retriever
    queries = Retriever.open({index!r}).queries
    noise = np.kron(np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8), np.ones((10, 10), np.uint8))
    queries.collection.vocabulary.quantizer.assign(
        np.random.default_rng(0).random((5000, 128), dtype=np.float32))
    import hardnet
    return hardnet.load("hardnet").describe(np.resize(noise, (300, 32, 32))).round(2).tolist()
"""


WORDS = """
import numpy as np
from retrieval.config import VocabularyConfig
from retrieval.vocabulary.quantizer import Quantizer
points = np.random.default_rng(0).random((3000, 64), dtype=np.float32)
quantizers = [Quantizer(points, VocabularyConfig(words=3000, search=kind)) for kind in ("exact", "ivf")]
def work():
    rows = np.random.default_rng(1).random((5000, 64), dtype=np.float32)
    return [quantizer.assign(rows, 3).tolist() for quantizer in quantizers]
"""
DONE = [pytest.param(work, id=name) for work, name in ((NETWORK, "words and network"), (SEARCH, "search"),
        (WORDS, "words"), (DESCRIBE, "describe"))]  # fmt: skip
FIRST = [pytest.param(work, id=name) for work, name in ((DESCRIBE, "describe"), (SEARCH, "search"), (WORDS, "words"))]


def ran(work, index, photos, opened_only=False):
    """What the children of a process that does some work, or only makes ready for it, end with."""
    if "{index" in work:
        work = work.format(index=str(index), photo=str(photos / "scenes" / "coffee_0.jpg"))
    # there must be a thread that a child has not got; it waits asleep, for other tests run meanwhile
    several = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    expected = []
    if opened_only:
        alone = [sys.executable, "-c", work + "import json\nprint(json.dumps(work()))"]
        expected = [subprocess.run(alone, stdout=subprocess.PIPE, text=True, env=several, check=True).stdout]
    parent = PARENT.format(seconds=SECONDS, work=work, opened_only=opened_only)
    return subprocess.run(
        [sys.executable, "-c", parent], input="".join(expected), capture_output=True, text=True, env=several
    )


@pytest.mark.parametrize("work", thinned(DONE, 2))
def test_a_forked_child_does_what_its_parent_did(index, photos, work):
    done = ran(work, index, photos)
    assert done.stdout.split() == ["0", "0", "0"], done.stdout + done.stderr


@pytest.mark.parametrize("work", thinned(FIRST, 3))
def test_a_forked_child_does_the_first_work(index, photos, work):
    """The parent has opened and loaded, and no more."""
    done = ran(work, index, photos, opened_only=True)
    assert done.stdout.split() == ["0", "0", "0"], done.stdout + done.stderr


def test_a_child_forked_while_another_thread_decodes(photos):
    """The lock and stderr, which a decoding thread of the parent holds, are free in the child."""
    script = """
import os, sys
from retrieval.photographs import decoding, quiet
with quiet.quiet_opencv():
    child = os.fork()
    if child == 0:
        with quiet._quiet_lock:
            os.write(2, b"heard")
        decoding.load_image(sys.argv[1])
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    arguments = [sys.executable, "-c", script, str(photos / "cat.png")]
    ran = subprocess.run(arguments, capture_output=True, text=True, timeout=SECONDS)
    assert (ran.stdout.strip(), ran.stderr) == ("7", "heard")
