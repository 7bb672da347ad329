"""Planar views: a flat picture seen by a simulated camera, labelled by how much of it is visible.

A view is a homography from a camera model, a background, occluders, and a photograph made of them (blur, exposure,
noise, JPEG). Everything is drawn from a generator that the caller seeds.
"""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from retrieval.errors import DatasetError

REFERENCE_SIDE = 340.0  # a landmark seen frontally at scale 1 covers REFERENCE_SIDE^2 pixels
GRID = 96  # samples per side with which the visible fraction is measured
SUPERSAMPLING = 2  # rendered larger, then averaged down: small landmarks must not alias
FEATHER = 5  # pixels of the landmark's border that fade into the background


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


@dataclass(frozen=True, eq=False)
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
