"""From an index to a sparse model: ``retrieval export --colmap``, ``colmap mapper``, and how far off the cameras are.

    RETRIEVAL_REAL_DATA=DIR python -m benchmarks.reconstruction [--scenes fountain-P11] [--matches index descriptors]

The photographs of Strecha et al. 2008 are indexed at full size, exported with one camera of which nothing is known, and
handed to COLMAP's mapper with its defaults and one thread. Of the largest model that it makes: photographs registered,
the mean reprojection error of its points, and the distances of camera centres from the known ones after the similarity
that fits them best (Umeyama 1991), in the largest distance between two known centres.

Indexes that are there in ``--work`` are used. Debian has COLMAP 3.8: `apt-get install --no-install-recommends colmap`.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.colmap import environment
from retrieval import config as settings_module
from retrieval.evaluation.pipeline import build_collection
from retrieval.exchange.export import SOURCES, export_colmap
from retrieval.index.collection import Collection
from retrieval.patchsets.colmap_model import Model, read_model
from retrieval.patchsets.views import View, read_views
from retrieval.photographs.folder import ImageSet
from retrieval.search.retriever import Retriever

SCENES = {"fountain-P11": 11, "castle-P30": 28}  # photographs that have to be registered
MOST_ERROR = 1.0  # pixels
MOST_DISTANCE = 0.01  # of the scene's size


def main() -> int:
    """Runs the benchmark and prints it; 1 if a bar is missed."""
    parser = record.parser(__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs") / "reconstruction")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES), metavar="NAME")
    parser.add_argument("--matches", nargs="+", choices=SOURCES, default=list(SOURCES), metavar="SOURCE")
    arguments = parser.parse_args()
    program = shutil.which("colmap")
    if program is None:
        print("left out: COLMAP is not installed: apt-get install --no-install-recommends colmap", file=sys.stderr)
        return 0
    figures: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    print("| scene | matches of | s | pairs | matches | registered | points | error, px | centres, % of the scene |")
    print("|---|---|---|---|---|---|---|---|---|")
    for scene in arguments.scenes:
        for source in arguments.matches:
            found = reconstructed(program, record.real_data() / "strecha" / scene, arguments.work, source)
            figures[f"{scene}, {source}"] = found
            bars[f"{scene}, {source}: {SCENES[scene]} photographs"] = found["registered"] >= SCENES[scene]
            bars[f"{scene}, {source}: error below {MOST_ERROR:g} px"] = found["error"] < MOST_ERROR
            bars[f"{scene}, {source}: centres within {MOST_DISTANCE:.0%}"] = found["distance"]["max"] <= MOST_DISTANCE
            cells = (
                scene,
                source,
                f"{found['seconds']:.0f}",
                found["pairs"],
                found["matches"],
                f"{found['registered']} of {found['photographs']}",
                found["points"],
                f"{found['error']:.2f}",
                f"{100 * found['distance']['median']:.2f} (at most {100 * found['distance']['max']:.2f})",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return record.report("reconstruction", figures, arguments.json, bars)


def reconstructed(program: str, photographs: Path, work: Path, source: str) -> dict[str, Any]:
    """The figures of one scene with matches of one source."""
    views = read_views(photographs)
    index, target = work / f"{photographs.name}.index", work / f"{photographs.name}-{source}.db"
    if not index.exists():
        config = settings_module.load(None, ["images.max_side=null", "parallel.jobs=1"])
        build_collection(ImageSet(photographs, tuple(view.image.name for view in views)), index, config)
    start = time.process_time()
    done = export_colmap(Retriever(Collection.open(index)), target, None, source, single_camera=True, force=True)
    seconds = time.process_time() - start
    sparse = target.with_suffix("")
    shutil.rmtree(sparse, ignore_errors=True)
    sparse.mkdir()
    paths = ("--database_path", target, "--image_path", photographs, "--output_path", sparse)
    command = [program, "mapper", *map(str, paths), "--Mapper.num_threads", "1"]
    ran = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout[-1000:]}{ran.stderr[-1000:]}")
    models = [read_model(folder) for folder in sparse.iterdir()]
    model = max(models, key=lambda one: len(one.photographs))
    return {
        "photographs": len(views),
        "seconds": seconds,
        "pairs": done.kept,
        "matches": done.matches,
        "models": len(models),
        "registered": len(model.photographs),
        "points": len(model.points),
        "error": float(model.errors.mean()),
        "distance": record.spread(distances(model, views).tolist()),
    }


def distances(model: Model, views: list[View]) -> np.ndarray:
    """How far camera centres lie from the known ones, in the largest distance between two known ones: (n,)."""
    known = {view.image.name: view.centre for view in views}
    theirs = np.stack([-one.rotation.T @ one.translation for one in model.photographs])
    ours = np.stack([known[one.name] for one in model.photographs])
    everywhere = np.stack(list(known.values()))
    size = np.linalg.norm(everywhere[:, None] - everywhere[None], axis=2).max()
    return np.asarray(np.linalg.norm(aligned(theirs, ours) - ours, axis=1) / size)


def aligned(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Points (n, 3) under the similarity that brings them closest to others (n, 3), in the sum of squares.

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns".
    """
    centre, target = points.mean(axis=0), onto.mean(axis=0)
    moved, fixed = points - centre, onto - target
    left, values, right = np.linalg.svd(fixed.T @ moved)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = (values * signs).sum() / (moved**2).sum()
    return np.asarray(scale * moved @ rotation.T + target)


if __name__ == "__main__":
    sys.exit(main())
