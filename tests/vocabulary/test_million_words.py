"""A million words on three million drawn descriptors: that faiss does it on a CPU, in the memory that `--plan` names.

Only `make soak` runs it: two iterations take about half an hour of one core. The cells of the inverted file are learned
in one iteration instead of ten, and 16 of them are visited: neither takes less memory.
"""

import json
import logging
import resource
import sys
import time
from pathlib import Path
from subprocess import PIPE, run

import pytest

from benchmarks.training import DIMENSIONS, QUANTISATION, drawn_codes
from retrieval.config import Config, VocabularyConfig, vocabulary_settings
from retrieval.evaluation.costs import training_bytes
from retrieval.vocabulary import kmeans, quantizer
from retrieval.vocabulary.store import open_vocabulary, save_vocabulary
from tests.survival import SOAK, told

WORDS, ROWS, HELD_OUT = 1_000_000, 3_000_000, 2_000
POINTS = 50_000  # around which descriptors are drawn
CONFIG = VocabularyConfig(words=WORDS, iterations=2, probes=16)


@pytest.mark.skipif(not SOAK, reason="takes half an hour: make soak")
def test_a_million_words(tmp_path, capsys):
    command = [sys.executable, "-m", "tests.vocabulary.test_million_words", str(tmp_path / "words")]
    found = json.loads(run(command, check=True, stdout=PIPE, text=True).stdout)
    told(capsys, f"{WORDS} words of {ROWS} descriptors: {found['seconds']:.0f} s, {found['peak'] / 1e9:.1f} GB at most")
    vocabulary = open_vocabulary(tmp_path / "words", verify=True)
    assert vocabulary.centroids.shape == (WORDS, DIMENSIONS)
    assert vocabulary.counts.sum() == ROWS
    before, after = vocabulary.statistics["objective"]
    assert after < before
    assert vocabulary.agreement.compared == HELD_OUT
    assert len(vocabulary.words_of(vocabulary.held_out)) == HELD_OUT
    assert found["peak"] < found["before"] + 1.25 * training_bytes(ROWS, CONFIG, DIMENSIONS)


def _train(folder: Path) -> dict[str, float]:
    """Trains and saves, in a process whose greatest memory is then that of the training."""
    quantizer.CELL_ITERATIONS = 1
    before = _peak()
    codes = drawn_codes(ROWS + HELD_OUT, POINTS, seed=0)
    start = time.perf_counter()
    trained = kmeans.train(codes[HELD_OUT:], CONFIG, 0, QUANTISATION, checkpoint=folder.with_name("checkpoint"))
    settings = vocabulary_settings(Config(vocabulary=CONFIG))
    save_vocabulary(folder, trained, settings, QUANTISATION, CONFIG, codes[:HELD_OUT])
    return {"seconds": time.perf_counter() - start, "peak": _peak(), "before": before}


def _peak() -> float:
    """The bytes that this process has had at most."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    print(json.dumps(_train(Path(sys.argv[1]))))  # noqa: T201
