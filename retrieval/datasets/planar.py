"""The demonstration set: an Oxford-format miniature rendered from photographs inside installed packages.

Eight flat "landmarks" (crops of the photographs that the scikit-image and scikit-learn wheels carry) are seen
through random homographies over other pictures, with blur, exposure changes, noise, compression and
occlusion. Labels follow Philbin et al. 2007 (section 5.1, good / ok / junk), computed from what the camera
model says is visible. Views of planes are no photographs of buildings: figures measured here say nothing
about Oxford5k. data/README.md tells which picture plays which part.
"""

import argparse
import importlib.util
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from retrieval import artefacts
from retrieval.errors import DatasetError, RetrievalError

VERSION = 1  # raised whenever the same seed would give other bytes
REFERENCE_SIDE = 340.0  # a landmark seen frontally at scale 1 covers REFERENCE_SIDE^2 pixels
QUERIES_PER_LANDMARK = 5  # as in Oxford5k
GRID = 96  # samples per side with which the visible fraction is measured
SUPERSAMPLING = 2  # rendered larger, then averaged down: small landmarks must not alias
FEATHER = 5  # pixels of the landmark's border that fade into the background

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewRange:
    """Everything that decides how hard the set is. Pairs are (least, most), drawn uniformly."""

    good: int = 6  # views of each label per landmark
    ok: int = 5
    junk: int = 3
    distractors: int = 48
    vocabulary: int = 36
    frames: tuple[tuple[int, int], ...] = ((640, 480), (480, 640), (600, 450), (560, 420))  # width, height
    scale: tuple[float, float] = (0.75, 1.5)  # drawn uniformly in its logarithm
    yaw: float = 40.0  # degrees either side, rotation about the vertical axis
    pitch: float = 20.0  # degrees either side, about the horizontal axis
    roll: float = 12.0  # degrees either side, in the image plane: regions are upright
    focal: float = 1.6  # focal length in landmark sides: smaller is more perspective
    overflow: float = 0.05  # how far outside the frame a landmark's centre may lie, in frame sides
    occluders: int = 2  # at most so many
    occluder_size: tuple[float, float] = (0.15, 0.6)  # in landmark sides
    blur: tuple[float, float] = (0.0, 1.5)  # of the whole photograph, standard deviation in pixels
    depth_blur: tuple[float, float] = (2.5, 6.0)  # of the background alone
    gain: tuple[float, float] = (0.55, 1.25)
    gamma: tuple[float, float] = (0.7, 1.5)
    noise: tuple[float, float] = (0.5, 4.0)  # standard deviation in grey levels
    quality: tuple[int, int] = (45, 92)  # JPEG
    good_visible: float = 0.8  # least visible fraction of a good view
    ok_visible: float = 0.25  # below it a view is junk: Philbin et al. 2007
    least_visible: float = 0.08  # below it the landmark counts as absent, and the view is not made
    good_sharpness: float = 0.3  # see `View.sharpness`
    ok_sharpness: float = 0.14
    query_visible: float = 0.5
    query_sharpness: float = 0.3


@dataclass(frozen=True)
class Crop:
    """A part of a packaged photograph: file name and (x, y, width, height) in pixels, None = all of it."""

    name: str
    file: str
    box: tuple[int, int, int, int] | None = None


LANDMARKS = (
    Crop("astronaut", "astronaut.png", (20, 20, 330, 400)),
    Crop("cameraman", "camera.png", (20, 50, 400, 440)),
    Crop("cat", "chelsea.png"),
    Crop("coffee", "coffee.png", (60, 10, 430, 385)),
    Crop("coins", "coins.png", (0, 0, 384, 148)),
    Crop("galaxies", "hubble_deep_field.jpg", (0, 0, 500, 430)),
    Crop("motorcycle", "motorcycle_left.png", (110, 150, 590, 330)),
    Crop("pagoda", "china.jpg", (60, 20, 300, 330)),
)
CONFUSERS = (  # look like a landmark, are none: seen as landmarks are, in distractors only
    Crop("other_coins", "coins.png", (0, 150, 384, 153)),
    Crop("other_galaxies", "hubble_deep_field.jpg", (505, 0, 495, 430)),
    Crop("more_galaxies", "hubble_deep_field.jpg", (0, 440, 500, 432)),
    Crop("shuttle", "astronaut.png", (362, 0, 150, 512)),
    Crop("lakeside", "china.jpg", (365, 130, 275, 297)),
    Crop("garage", "motorcycle_left.png", (300, 0, 441, 145)),
    Crop("tissue", "ihc.png", (0, 0, 250, 512)),
    Crop("moon", "moon.png"),
)
SCENERY = (  # behind landmarks and distractors alike, and in front of them as occluders
    Crop("bricks", "brick.png", (0, 0, 512, 250)),
    Crop("gravel", "gravel.png", (0, 0, 250, 512)),
    Crop("grass", "grass.png", (0, 0, 250, 512)),
    Crop("dark_sky", "hubble_deep_field.jpg", (505, 440, 495, 432)),
    Crop("lake_trees", "china.jpg", (365, 130, 275, 297)),
    Crop("shelves", "motorcycle_left.png", (300, 0, 441, 145)),
    Crop("tissue_left", "ihc.png", (0, 0, 250, 512)),
)
VOCABULARY = (  # never seen in the database
    Crop("rocket", "rocket.jpg"),
    Crop("flower", "flower.jpg"),
    Crop("retina", "retina.jpg"),
    Crop("text", "text.png"),
    Crop("page", "page.png"),
    Crop("logo", "logo.png"),
    Crop("tissue_right", "ihc.png", (262, 0, 250, 512)),
    Crop("grass_right", "grass.png", (262, 0, 250, 512)),
    Crop("gravel_right", "gravel.png", (262, 0, 250, 512)),
    Crop("bricks_below", "brick.png", (0, 262, 512, 250)),
)


@dataclass(frozen=True)
class View:
    """One landmark as one camera sees it: everything but the pixels of the background.

    Attributes:
        frame: width and height in pixels.
        transform: float64 (3, 3), pixels of the landmark's crop -> pixels of the frame.
        occluders: convex polygons, each float64 (V, 2), in frame pixels.
        blur: standard deviation of the camera's blur in pixels.
        visible: fraction 0..1 of the landmark's area inside the frame and not behind an occluder.
        sharpness: smallest singular value of the view's Jacobian at the landmark's centre (frame pixels per
            landmark pixel, 1 = frontal at scale 1), reduced by blur: small means far, oblique or blurred.
        box: x1, y1, x2, y2 of the visible part in frame pixels.
    """

    frame: tuple[int, int]
    transform: np.ndarray
    occluders: tuple[np.ndarray, ...]
    blur: float
    visible: float
    sharpness: float
    box: tuple[float, float, float, float]

    def label(self, views: ViewRange) -> str:
        """``good``, ``ok``, ``junk`` or ``absent`` by the benchmark's wording (Philbin et al. 2007, 5.1)."""
        if self.visible < views.least_visible:
            return "absent"
        if self.visible < views.ok_visible or self.sharpness < views.ok_sharpness:
            return "junk"
        if self.visible < views.good_visible or self.sharpness < views.good_sharpness:
            return "ok"
        return "good"


@dataclass(frozen=True)
class PlanarSet:
    """Where a generated set lies and how many photographs it holds."""

    root: Path
    images: int
    vocabulary_images: int
    queries: int

    @property
    def image_folder(self) -> Path:
        """The database photographs."""
        return self.root / "images"

    @property
    def groundtruth_folder(self) -> Path:
        """Ground truth in the Oxford format."""
        return self.root / "groundtruth"

    @property
    def vocabulary_folder(self) -> Path:
        """Photographs for an independent vocabulary."""
        return self.root / "vocabulary-images"


def generate(root: str | Path, seed: int = 0, views: ViewRange | None = None) -> PlanarSet:
    """Renders the set below `root`, or leaves it where the same version, seed and ranges are there already.

    Same seed, same machine and library versions: the same bytes. The set appears whole or not at all.

    Args:
        root: folder to make; an older generated set there is replaced, anything else is refused.
        seed: of every random choice.
        views: difficulty; the default is the demonstration's.

    Raises:
        DatasetError: a photograph is not installed, or `root` holds something that is not a generated set.
    """
    root, views = Path(root), views or ViewRange()
    about = {"generator": "planar", "version": VERSION, "seed": seed, "views": asdict(views)}
    about = json.loads(json.dumps(about))
    result = PlanarSet(
        root,
        len(LANDMARKS) * (views.good + views.ok + views.junk) + views.distractors,
        views.vocabulary,
        len(LANDMARKS) * QUERIES_PER_LANDMARK,
    )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if _read_about(root) == about:
            log.info("%s is already there (version %d, seed %d)", root, VERSION, seed)
            return result
        if _read_about(root).get("generator") != "planar":
            raise DatasetError(f"{root} holds something else than a generated set: give another folder")
    for crop in (*LANDMARKS, *CONFUSERS, *SCENERY, *VOCABULARY):
        load_crop(crop)
    with (
        artefacts.building(root) as folder,
        tqdm(total=result.images + result.vocabulary_images, desc="rendering", disable=None) as progress,
    ):
        for name in ("images", "groundtruth", "vocabulary-images"):
            (folder / name).mkdir()
        for number, crop in enumerate(LANDMARKS):
            _write_landmark(folder, crop, np.random.default_rng([seed, 1, number]), views, progress)
        _write_others(folder / "images", "general", CONFUSERS, SCENERY, views.distractors, [seed, 2], views, progress)
        _write_others(
            folder / "vocabulary-images",
            "words",
            VOCABULARY,
            VOCABULARY,
            views.vocabulary,
            [seed, 3],
            views,
            progress,
        )
        (folder / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    log.info("%s: %d photographs, %d for the vocabulary", root, result.images, result.vocabulary_images)
    return result


@lru_cache(maxsize=64)
def load_crop(crop: Crop) -> np.ndarray:
    """The pixels of a packaged photograph's crop: uint8 (H, W, 3), blue green red.

    Raises:
        DatasetError: the package or its file is not installed; nothing is downloaded.
    """
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin).parent / folder / crop.file
        if path.is_file():
            pixels = cv2.imdecode(np.frombuffer(_without_profile(path.read_bytes()), np.uint8), cv2.IMREAD_COLOR)
            if pixels is None:
                raise DatasetError(f"{path} cannot be decoded; reinstall the package {package}")
            x, y, width, height = crop.box or (0, 0, pixels.shape[1], pixels.shape[0])
            pixels = np.ascontiguousarray(pixels[y : y + height, x : x + width])
            pixels.setflags(write=False)
            return pixels
    raise DatasetError(f"the packaged photograph {crop.file} is not installed: pip install 'hardnet-retrieval[demo]'")


def sample_view(rng: np.random.Generator, size: tuple[int, int], views: ViewRange) -> View:
    """Draws a camera, occluders and blur for a landmark of `size` (width, height); measures what it sees."""
    frame = views.frames[int(rng.integers(len(views.frames)))]
    width, height = size
    unit = REFERENCE_SIDE / math.sqrt(width * height)  # landmark pixels -> frame pixels, frontal at scale 1
    scale = math.exp(rng.uniform(*np.log(views.scale)))
    side = REFERENCE_SIDE * scale
    angles = np.radians(rng.uniform(-1, 1, 3) * (views.yaw, views.pitch, views.roll))
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    plane = (corners - corners.mean(0)) * unit * scale
    space = np.c_[plane, np.zeros(4)] @ _rotation(*angles).T  # (4, 3)
    depth = views.focal * side
    seen = space[:, :2] * (depth / (depth + space[:, 2:]))
    centre = rng.uniform(-views.overflow, 1 + views.overflow, 2) * frame
    transform = cv2.getPerspectiveTransform(corners.astype(np.float32), (seen + centre).astype(np.float32))
    occluders = []
    for _ in range(int(rng.integers(views.occluders + 1))):
        turns = np.sort(rng.uniform(0, 2 * np.pi, 7))
        radius = side * rng.uniform(*views.occluder_size, 2) / 2
        middle = centre + rng.uniform(-0.5, 0.5, 2) * side
        occluders.append(middle + radius * np.c_[np.cos(turns), np.sin(turns)])
    blur = float(rng.uniform(*views.blur))
    visible, box = visible_part(transform, size, frame, occluders)
    sharpness = _sharpness(transform, size, unit, blur)
    return View(frame, transform, tuple(occluders), blur, visible, sharpness, box)


def visible_part(
    transform: np.ndarray, size: tuple[int, int], frame: tuple[int, int], occluders: Sequence[np.ndarray]
) -> tuple[float, tuple[float, float, float, float]]:
    """The fraction of a landmark's own area that a view shows, and the bounding box of that part.

    Measured on a grid of GRID x GRID points of the landmark against the mask of the occluders.

    Returns:
        visible 0..1, and (x1, y1, x2, y2) in frame pixels; an empty box (all 0) where nothing is visible.
    """
    width, height = size
    columns, rows = (
        (np.arange(GRID) + 0.5) / GRID * width - 0.5,
        (np.arange(GRID) + 0.5) / GRID * height - 0.5,
    )
    points = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 1, 2)
    seen = cv2.perspectiveTransform(points, transform).reshape(-1, 2)
    pixels = np.rint(seen).astype(np.int64)
    inside: np.ndarray = np.all((pixels >= 0) & (pixels < frame), axis=1)
    hidden = _occluder_mask(occluders, frame)
    shown = inside.copy()
    shown[inside] = hidden[pixels[inside, 1], pixels[inside, 0]] == 0
    if not shown.any():
        return 0.0, (0.0, 0.0, 0.0, 0.0)
    (x1, y1), (x2, y2) = seen[shown].min(0), seen[shown].max(0)
    return float(shown.mean()), (float(x1), float(y1), float(x2), float(y2))


def render(
    rng: np.random.Generator, view: View, landmark: np.ndarray, scenery: Sequence[Crop], views: ViewRange
) -> bytes:
    """The photograph of a view: background, landmark, occluders, camera. Returns JPEG bytes."""
    width, height = view.frame
    canvas: np.ndarray = _background(rng, scenery, view.frame).astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(*views.depth_blur))
    shift = (SUPERSAMPLING - 1) / 2  # pixel centres
    grow = np.array([[SUPERSAMPLING, 0, shift], [0, SUPERSAMPLING, shift], [0, 0, 1]])
    large = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    fade: np.ndarray = np.zeros(landmark.shape[:2], np.float32)
    fade[FEATHER:-FEATHER, FEATHER:-FEATHER] = 1
    fade = cv2.blur(fade, (2 * FEATHER + 1, 2 * FEATHER + 1))
    pixels, alpha = (
        cv2.resize(
            cv2.warpPerspective(layer, grow @ view.transform, large, flags=cv2.INTER_LINEAR),
            view.frame,
            interpolation=cv2.INTER_AREA,
        )
        for layer in (landmark.astype(np.float32) * fade[..., None], fade)
    )
    canvas = canvas * (1 - alpha[..., None]) + pixels
    for polygon in view.occluders:
        mask = cv2.GaussianBlur(_occluder_mask([polygon], view.frame).astype(np.float32), (0, 0), 1.0)
        canvas += (_background(rng, scenery, view.frame) - canvas) * mask[..., None]
    return _photograph(rng, canvas, view.blur, views)


def _write_landmark(folder: Path, crop: Crop, rng: np.random.Generator, views: ViewRange, progress: tqdm) -> None:
    """All views of one landmark and the ground truth of its five queries."""
    landmark = load_crop(crop)
    size = (landmark.shape[1], landmark.shape[0])
    wanted = {"good": views.good, "ok": views.ok, "junk": views.junk}
    kept: list[View] = []
    while sum(wanted.values()):  # every label's quota is filled from the same cameras
        view = sample_view(rng, size, views)
        label = view.label(views)
        if wanted.get(label):
            wanted[label] -= 1
            kept.append(view)
    kept = [kept[i] for i in rng.permutation(len(kept))]
    names = [f"{crop.name}_{number:06d}" for number in range(1, len(kept) + 1)]
    for name, view in zip(names, kept, strict=True):
        (folder / "images" / f"{name}.jpg").write_bytes(render(rng, view, landmark, SCENERY, views))
        progress.update()
    by_label = {label: [n for n, v in zip(names, kept, strict=True) if v.label(views) == label] for label in wanted}
    positives = [i for i, view in enumerate(kept) if view.label(views) in ("good", "ok")]
    clear = [
        i for i in positives if kept[i].visible >= views.query_visible and kept[i].sharpness >= views.query_sharpness
    ]
    order = list(rng.permutation(clear)) + [i for i in positives if i not in clear]
    for number, index in enumerate(order[:QUERIES_PER_LANDMARK], 1):
        stem = folder / "groundtruth" / f"{crop.name}_{number}"
        box = " ".join(f"{value:.1f}" for value in kept[index].box)
        Path(f"{stem}_query.txt").write_text(f"oxc1_{names[index]} {box}\n", encoding="utf-8")
        for label, members in by_label.items():
            Path(f"{stem}_{label}.txt").write_text("".join(f"{name}\n" for name in members), encoding="utf-8")


def _write_others(
    folder: Path,
    prefix: str,
    subjects: Sequence[Crop],
    scenery: Sequence[Crop],
    count: int,
    seed: list[int],
    views: ViewRange,
    progress: tqdm,
) -> None:
    """Photographs without a landmark, made by the same camera: each subject in turn over random scenery."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        subject = load_crop(subjects[number % len(subjects)])
        size = (subject.shape[1], subject.shape[0])
        view = sample_view(rng, size, views)
        while view.label(views) == "absent":
            view = sample_view(rng, size, views)
        (folder / f"{prefix}_{number + 1:06d}.jpg").write_bytes(render(rng, view, subject, scenery, views))
        progress.update()


def _background(rng: np.random.Generator, scenery: Sequence[Crop], frame: tuple[int, int]) -> np.ndarray:
    """A random part of a random picture, stretched over the frame: uint8 (H, W, 3)."""
    picture = load_crop(scenery[int(rng.integers(len(scenery)))])
    height, width = picture.shape[:2]
    part = rng.uniform(0.4, 1.0)
    w, h = int(width * part), int(height * part)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    found = picture[y : y + h, x : x + w]
    return cv2.resize(found, frame, interpolation=cv2.INTER_AREA if w > frame[0] else cv2.INTER_CUBIC)


def _photograph(rng: np.random.Generator, canvas: np.ndarray, blur: float, views: ViewRange) -> bytes:
    """Blur, exposure, tone curve, sensor noise, compression, in the order of a camera."""
    if blur > 0.2:
        canvas = cv2.GaussianBlur(canvas, (0, 0), blur)
    tone = np.clip(canvas * rng.uniform(*views.gain) / 255, 0, 1) ** rng.uniform(*views.gamma)
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(*views.noise)
    pixels = np.clip(np.rint(tone * 255 + noise), 0, 255).astype(np.uint8)
    quality = int(rng.integers(views.quality[0], views.quality[1] + 1))
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _occluder_mask(occluders: Sequence[np.ndarray], frame: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((frame[1], frame[0]), np.uint8)
    for polygon in occluders:
        cv2.fillConvexPoly(mask, np.rint(polygon).astype(np.int32), 1)
    return mask


def _sharpness(transform: np.ndarray, size: tuple[int, int], unit: float, blur: float) -> float:
    x, y = (size[0] - 1) / 2, (size[1] - 1) / 2
    u, v, w = transform @ (x, y, 1.0)
    jacobian = (transform[:2, :2] - np.outer((u / w, v / w), transform[2, :2])) / w
    return float(np.linalg.svd(jacobian, compute_uv=False)[-1] / unit / math.hypot(1, blur))


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _without_profile(data: bytes) -> bytes:
    """Drops a PNG's colour profile: OpenCV does not use it, and libpng warns of a malformed one."""
    start = data.find(b"iCCP", 0, 256) - 4
    if not data.startswith(b"\x89PNG") or start < 0:
        return data
    return data[:start] + data[start + 12 + int.from_bytes(data[start : start + 4], "big") :]


def _read_about(root: Path) -> dict[str, object]:
    try:
        found = json.loads((root / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m retrieval.datasets.planar ROOT [--seed N]``; 0, or 2 with one line of error."""
    parser = argparse.ArgumentParser(
        prog="python -m retrieval.datasets.planar", description="Render the demonstration set."
    )
    parser.add_argument("root", type=Path, help="folder to make, for example data/demo")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        generate(given.root, given.seed)
    except RetrievalError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
