"""Figures: every line and ellipse lies where the maths puts it, in the right colour, whatever the photographs are."""

import io
import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.config import ImageConfig
from retrieval.errors import RetrievalError
from retrieval.index.collection import Collection
from retrieval.photographs.decoding import load_image, load_picture
from retrieval.reporting import figures, lettering
from retrieval.reporting.figures import (
    BOX,
    PERHAPS,
    QUERY,
    UNVERIFIED,
    VERIFIED,
    match_drawing,
    match_layout,
    query_sheet,
)
from retrieval.reporting.figures import sheet_layout as lay_sheet
from retrieval.reporting.pictures import (
    TILE,
    Photograph,
    encode,
    open_photograph,
    thumbnail,
    write_figure,
)
from retrieval.reporting.strokes import Placed, distinct_colours, ellipses, stroke
from retrieval.search import queries
from retrieval.search.ranking import Hit
from retrieval.search.retriever import Retriever
from tests.command import run

GREY = 128
ODD = [
    '<script>&".jpg',
    "Größe Ωтест 写真.jpg",
    "a\nb\x1b[31m.jpg",
    "bytes\udcff.jpg",
    "",
    "x" * 500,
    "שלום.jpg",
    "😀.jpg",
]


def flat(name, width, height, value=GREY):
    return Photograph(name, (width, height), np.full((height, width, 3), value, np.uint8))


def near(canvas, point, colour, reach=1, tolerance=60):
    """Whether a pixel within `reach` of a point (x, y) has about this colour."""
    x, y = (round(float(value)) for value in point)
    patch = canvas[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].astype(int)
    return bool((np.abs(patch - np.array(colour)).max(axis=2) <= tolerance).any())


def on_canvas(placed, x, y):
    """In plain arithmetic, where a point of the photograph lies: pixel edges map to pixel edges."""
    return (
        placed.left + (x + 0.5) * placed.width / placed.size[0] - 0.5,
        placed.top + (y + 0.5) * placed.height / placed.size[1] - 0.5,
    )


def test_an_ellipse_is_the_unit_circle_under_its_frame():
    rng = np.random.default_rng(3)
    regions = np.column_stack(
        [
            rng.uniform(0, 500, (20, 2)),
            rng.uniform(2, 30, 20),
            rng.uniform(-9, 9, 20),
            rng.uniform(2, 30, 20),
            rng.uniform(0, 7, 20),
        ]
    )
    for region, outline in zip(regions, ellipses(regions), strict=True):
        x, y, a, b, c, _ = region
        inverse = np.linalg.inv([[a, 0], [b, c]])
        lengths = np.linalg.norm((outline - (x, y)) @ inverse.T, axis=1)  # turning the circle changes nothing here
        np.testing.assert_allclose(lengths, 1, atol=1e-9)
        assert len(np.unique(outline.round(6), axis=0)) == len(outline)


def test_pixel_centres_are_whole_numbers_on_both_sides():
    placed = Placed(10, 20, 200, 100, (400, 100))
    np.testing.assert_allclose(placed.to_canvas([[-0.5, -0.5], [399.5, 99.5]]), [[9.5, 19.5], [209.5, 119.5]])
    np.testing.assert_allclose(placed.to_canvas([[0, 0]]), [[10 - 0.25, 20]])


def test_a_stroke_is_centred_and_far_points_do_no_harm():
    canvas = np.zeros((40, 40, 3), np.uint8)
    stroke(canvas, np.array([[5, 10], [35, 10]]), (0, 0, 255), rim=False)
    assert canvas[10, 20, 2] > 200
    assert abs(int(canvas[9, 20, 2]) - int(canvas[11, 20, 2])) < 12
    assert canvas[9, 20, 2] < 128
    assert canvas[8, 20].max() == canvas[12, 20].max() == 0
    stroke(canvas, np.array([[-1e12, 20], [1e12, 20]]), (0, 255, 0), rim=False)
    assert canvas[20, :, 1].min() > 100


MATCHES = np.array(
    [
        [[60, 40, 12, 3, 9, 0], [150, 90, 14, -2, 20, 0]],
        [[150, 30, 8, 0, 8, 1.0], [250, 200, 10, 5, 10, 2.0]],
        [[100, 80, 6, 1, 15, 0], [60, 180, 20, 0, 12, 0]],
    ],
    np.float32,
)


def test_ellipses_lines_and_outlines_lie_where_the_maths_puts_them():
    query, image = flat("q", 200, 100), flat("i", 300, 240)
    transform = np.array([[1.1, 0.2, 20.0], [-0.1, 1.3, 35.0]])
    box = (20.0, 10.0, 180.0, 90.0)
    drawing = match_drawing(query, image, MATCHES, transform, box, ["one", "two"])
    height, ours, theirs = match_layout(query.size, image.size, 2)
    assert drawing.shape == (height, 1600, 3)
    assert drawing.dtype == np.uint8
    # neighbours from the top of the query get neighbouring colours
    palette = distinct_colours(3)
    colours = {1: palette[0], 0: palette[1], 2: palette[2]}
    for number, (first, second) in enumerate(MATCHES.astype(float)):
        for placed, (x, y, a, b, c, _) in ((ours, first), (theirs, second)):
            hit = 0
            for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False):
                u, v = x + a * np.cos(turn), y + b * np.cos(turn) + c * np.sin(turn)
                hit += near(drawing, on_canvas(placed, u, v), colours[number])
            assert hit >= 14  # another line may run over one or two of them
        begin, end = np.array(on_canvas(ours, *first[:2])), np.array(on_canvas(theirs, *second[:2]))
        places = [begin + (end - begin) * part for part in (0.35, 0.45, 0.55, 0.65)]
        assert sum(near(drawing, place, colours[number]) for place in places) >= 3
    for placed, corners in (
        (ours, [(20, 10), (180, 10), (180, 90), (20, 90)]),
        (
            theirs,
            [(1.1 * x + 0.2 * y + 20, -0.1 * x + 1.3 * y + 35) for x, y in ((20, 10), (180, 10), (180, 90), (20, 90))],
        ),
    ):
        for corner, following in zip(corners, corners[1:] + corners[:1], strict=True):
            for part in (0.2, 0.8):
                x, y = (one + (two - one) * part for one, two in zip(corner, following, strict=True))
                if 2 < x < placed.size[0] - 3 and 2 < y < placed.size[1] - 3:
                    assert near(drawing, on_canvas(placed, x, y), BOX, reach=2)
    x, y = (round(value) for value in on_canvas(ours, 190, 97))
    assert drawing[y, x].tolist() == [GREY] * 3  # away from everything the photograph is untouched


def test_nothing_is_drawn_outside_the_photographs_but_lines():
    """The carried outline of a query that is seen in part ends at the photograph's edge."""
    query, image = flat("q", 200, 100), flat("i", 200, 100)
    transform = np.array([[3.0, 0, -100], [0, 3.0, -100]])
    plain = match_drawing(query, image, np.empty((0, 2, 6)), None, None)
    drawn = match_drawing(query, image, np.empty((0, 2, 6)), transform, (90, 45, 199, 99))
    _, ours, theirs = match_layout(query.size, image.size, 0)
    changed = (plain != drawn).any(axis=2)
    assert changed.any()
    for placed in (ours, theirs):
        placed.view(changed)[:] = False
    assert not changed.any()


def test_many_matches_are_told_and_only_some_are_joined():
    rng = np.random.default_rng(0)
    matches = np.tile(np.array([0, 0, 4, 0, 4, 0], np.float32), (300, 2, 1))
    matches[:, :, :2] = rng.uniform(10, 190, (300, 2, 2))
    query, image = flat("q", 200, 200), flat("i", 200, 200)
    some, fewer = (match_drawing(query, image, matches, lines=lines) for lines in (40, 4))
    _, ours, theirs = match_layout(query.size, image.size, 1)
    gap = slice(ours.left + ours.width + 2, theirs.left - 2)
    rows = slice(ours.top, ours.top + ours.height)
    crossed = [(one[rows, gap] != 255).any(axis=2)[:, 8] for one in (some, fewer)]
    assert 0 < crossed[1].sum() <= 4 * 12
    assert crossed[1].sum() < crossed[0].sum()
    x, y = matches[299, 1, :2].astype(float)
    last = on_canvas(theirs, x + 4, y)
    assert near(fewer, last, UNVERIFIED)  # the others are there, thin and grey
    header = match_layout(query.size, image.size, 0)[0]
    assert some.shape[0] > header  # a line says so


@pytest.mark.parametrize(
    ("query", "image"), [((100, 100), (100, 100)), ((4000, 300), (300, 4000)), ((16, 3000), (16, 16))]
)
def test_photographs_of_any_shape_fit(query, image):
    _, ours, theirs = match_layout(query, image, 3)
    assert ours.left >= 0
    assert theirs.left > ours.left + ours.width
    assert theirs.left + theirs.width <= 1600
    match_drawing(flat("q", *query), flat("i", *image), MATCHES, np.eye(2, 3), None)


def hit(name, rank, transform=None, inliers=0):
    return Hit(name, rank, inliers + 0.25, inliers, transform, np.empty((0, 2, 6), np.float32), signed=True, cells=7)


def test_a_caption_tells_of_a_stamp():
    """Nine of twelve inliers on a stamp: the frame is that of three, as is what the caption says."""
    one = hit("a", 1, np.eye(2, 3), 12)
    stamped = replace(one, stamped=np.arange(12) < 9)
    assert (stamped.counted, stamped.inliers) == (3, 12)
    sheets = [
        query_sheet(flat("query.jpg", 400, 300), [each], lambda name: flat(name, 400, 300)) for each in (one, stamped)
    ]
    left, top, width, height = lay_sheet(1, 0).hits[0]
    for sheet, colour in zip(sheets, (VERIFIED, UNVERIFIED), strict=True):
        assert (sheet[top + height // 2, left : left + width] == colour).all(axis=1).sum() == 8


def test_two_elongated_photographs():
    for size in ((32000, 16), (16, 32000)):
        height, ours, theirs = match_layout(size, size, 1)
        assert min(ours.left, ours.width, theirs.width, ours.height) >= 1
        assert ours.left + ours.width < theirs.left
        assert theirs.left + theirs.width <= 1600
        assert theirs.top + theirs.height < height


def test_a_sheet_frames_hits_by_grade_and_carries_the_box():
    query = flat("query.jpg", 400, 300)
    hits = [
        hit("a", 1, np.array([[0.5, 0, 20.0], [0, 0.5, 30.0]]), 12),
        hit("b", 2),
        hit("gone", 3),
        hit("perhaps", 4, np.eye(2, 3), 11),
        hit("chance", 5, np.eye(2, 3), 6),
        *(hit(f"n{n}", n) for n in range(6, 12)),
    ]
    shown = {"a": flat("a", 400, 300), "b": flat("b", 300, 400), "gone": Photograph("gone", (400, 300), None, "gone")}
    opened = lambda name: shown.get(name, flat(name, 64, 48))  # noqa: E731
    sheet = query_sheet(query, hits, opened, (40, 30, 240, 230), ["title"])
    layout = lay_sheet(len(hits), 1)
    assert sheet.shape == (layout.height, 1600, 3)
    assert len(layout.hits) == len(hits)
    frames = [VERIFIED, UNVERIFIED, UNVERIFIED, PERHAPS, *[UNVERIFIED] * 7]
    for cell, colour in zip(layout.hits, frames, strict=True):
        left, top, width, height = cell
        middle = top + height // 2
        line = sheet[middle, left : left + width]
        assert (line == colour).all(axis=1).sum() == 8  # four pixels of frame on either side
    left, top, width, height = layout.query
    assert (sheet[top + height // 2, left : left + width] == QUERY).all(axis=1).sum() == 8
    # the box of (40..240, 30..230) comes to (40..140, 45..145) of the first hit
    left, top, width, height = layout.hits[0]
    scale = min((width - 8) / 400, (height - 8) / 300)
    origin = left + (width - round(400 * scale)) // 2, top + (height - round(300 * scale)) // 2
    for x, y in ((40, 95), (140, 95), (90, 45), (90, 145)):
        assert near(sheet, (origin[0] + (x + 0.5) * scale - 0.5, origin[1] + (y + 0.5) * scale - 0.5), BOX)
    x, y = left + width // 2, top + height // 2
    assert sheet[y, x].tolist() == [GREY] * 3
    left, top, width, height = layout.hits[2]
    assert near(sheet, (left + 12, top + 12), TILE, tolerance=0)


def test_cells_do_not_overlap_and_a_long_list_is_cut():
    layout = lay_sheet(48, 2)
    taken = np.zeros((layout.height, 1600), int)
    for left, top, width, height in (layout.query, *layout.hits):
        taken[top : top + height, left : left + width] += 1
    assert taken.max() == 1
    sheet = query_sheet(flat("q", 40, 30), [hit("a", n) for n in range(1, 200)], lambda _: flat("a", 40, 30))
    assert sheet.shape[0] == lay_sheet(48, 1).height
    assert query_sheet(flat("q", 40, 30), [], lambda _: flat("a", 40, 30)).shape[0] == lay_sheet(0, 0).height


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("font", [True, False])
def test_any_name_can_be_drawn(monkeypatch, name, font):
    if not font:
        monkeypatch.setattr(lettering, "_HAS_FONT", False)
        monkeypatch.setattr(lettering, "_ELLIPSIS", "...")
    elif not lettering._HAS_FONT:
        pytest.skip("OpenCV 4 has no such font")
    query_sheet(flat(name, 60, 60), [hit(name, 1)], lambda _: flat(name, 60, 60), None, [name])
    match_drawing(flat(name, 60, 60), flat(name, 60, 60), MATCHES, None, None, [name])
    text = lettering.shortened(name, 150, 17)
    assert lettering.measure(text, 17) <= 150
    assert "\n" not in text
    if not font:
        assert text.isascii()


def test_text_stays_inside_its_room():
    canvas = np.full((60, 400, 3), 255, np.uint8)
    text = lettering.shortened("all_souls_" + "0" * 80 + "_end.jpg", 300, 17)
    lettering.write(canvas, text, (20, 40), 17, (0, 0, 0))
    inked = np.flatnonzero((canvas < 200).any(axis=(0, 2)))
    assert inked.min() >= 19
    assert inked.max() <= 20 + 300
    assert text.startswith("all")
    assert text.endswith("_end.jpg")
    assert lettering.shortened("a.jpg", 300, 17) == "a.jpg"
    assert lettering.measure(lettering.shortened("abcdef", 1, 17), 17) < 30


def picture(path, orientation=1, form="JPEG"):
    """Red at the left, blue at the right, as stored."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = (250, 10, 10)
    pixels[:, 32:] = (10, 10, 250)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(pixels).save(path, form, exif=exif)
    return path


RED, BLUE = (10, 10, 250), (250, 10, 10)  # blue, green, red


@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_are_turned_as_the_index_turns_them(tmp_path, orientation):
    path = picture(tmp_path / "p.jpg", orientation)
    for exif in ("apply", "ignore"):
        config = ImageConfig(exif=exif)
        pixels, gray = load_picture(path, config), load_image(path, config).gray
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels.astype(np.float32).mean(axis=2), gray, atol=1e-3)
    ends = {1: (0, 10), 2: (0, 50), 3: (0, 50), 4: (0, 10), 5: (10, 0), 6: (10, 0), 7: (50, 0), 8: (50, 0)}
    y, x = ends[orientation]
    assert near(load_picture(path, ImageConfig(exif="apply")), (x, y), RED, tolerance=40)
    assert near(load_picture(path, ImageConfig(exif="ignore")), (10, 0), RED, tolerance=40)


@pytest.mark.parametrize(
    ("mode", "name"), [("L", "g.png"), ("RGBA", "a.png"), ("P", "p.png"), ("1", "b.png"), ("RGB", "w.webp")]
)
def test_every_kind_of_picture_becomes_three_bytes_a_pixel(tmp_path, mode, name):
    Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode).save(tmp_path / name)
    assert load_picture(tmp_path / name).shape == (30, 40, 3)


def test_sixteen_bits_and_other_whites_become_bytes(tmp_path):
    deep = np.full((20, 20, 3), 65535 // 2, np.uint16)
    deep[19] = 65535  # so that it uses its 16 bits
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert abs(int(load_picture(tmp_path / "deep.png")[0, 0, 0]) - 127) <= 1
    (tmp_path / "low.pgm").write_bytes(b"P5 20 20 100\n" + bytes([50]) * 400)
    assert abs(int(load_picture(tmp_path / "low.pgm")[0, 0, 0]) - 127) <= 1


def test_thumbnails(tmp_path):
    path = picture(tmp_path / "p.jpg", 6)
    assert thumbnail(path, 32, ImageConfig(exif="apply")).shape == (32, 24, 3)
    assert thumbnail(path, 32, ImageConfig(exif="ignore")).shape == (24, 32, 3)
    assert thumbnail(path, 500, ImageConfig(exif="ignore")).shape == (48, 64, 3)  # never enlarged


@pytest.mark.parametrize("what", ["gone", "folder", "text", "changed"])
def test_what_cannot_be_shown_is_a_grey_tile_that_says_so(tmp_path, what):
    path = tmp_path / "photo.jpg"
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("no photograph")
    elif what == "changed":
        picture(path)
    found = open_photograph(path, ImageConfig(), "n", (100, 80))
    assert found.pixels is None
    assert found.size == (100, 80)
    assert found.problem
    if what != "changed":
        tile = thumbnail(path, 120, ImageConfig())
        assert tile.shape == (90, 120, 3)
        assert (tile == TILE).all(axis=2).mean() > 0.5
        assert (tile < 180).any()  # the words
    drawn = match_drawing(found, found, MATCHES, np.eye(2, 3), (10, 10, 90, 70))
    assert drawn.shape[1] == 1600


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_the_suffix_is_the_format(tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    write_figure(path, np.full((30, 50, 3), (10, 200, 30), np.uint8))
    magic = {".png": b"\x89PNG", ".webp": b"RIFF"}.get(suffix.lower(), b"\xff\xd8")
    assert path.read_bytes().startswith(magic)
    assert near(cv2.imread(str(path)), (20, 10), (10, 200, 30), tolerance=12)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["figure.gif", "figure", "figure.svg", "missing/figure.png", "folder.png"])
def test_bad_paths_are_refused(tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RetrievalError, match=r"figure|folder"):
        write_figure(tmp_path / name, np.zeros((9, 9, 3), np.uint8))


def test_a_refusing_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "f.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RetrievalError, match="No space left"):
        write_figure(path, np.zeros((9, 9, 3), np.uint8))
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RetrievalError, match="does not fit"):
        encode(np.zeros((9, 17_000, 3), np.uint8), ".webp")


@settings(max_examples=30)
@given(st.integers(1, 200))
def test_neighbouring_colours_differ(count):
    colours = np.array(distinct_colours(count), int)
    assert (np.abs(np.diff(colours, axis=0)).max(axis=1) > 60).all()


def test_query_figure(capsys, index, photos, tmp_path):
    plain = run(capsys, "query", index, "scenes/coffee_0.jpg", "--box", 100, 80, 400, 350, "--json")
    path = tmp_path / "sheet.png"
    drawn = run(capsys, "query", index, "scenes/coffee_0.jpg", "--box", 100, 80, 400, 350, "--json", "--figure", path)
    assert drawn[:2] == plain[:2]
    hits = json.loads(drawn[1])["hits"]
    sheet = cv2.imread(str(path))
    layout = lay_sheet(len(hits), 2)
    assert sheet.shape == (layout.height, 1600, 3)
    for one, (left, top, width, height) in zip(hits, layout.hits, strict=True):
        sure = one["transform"] is not None and one["inliers"] >= 25  # this index has no signatures
        colour = VERIFIED if sure else UNVERIFIED
        assert sure or one["inliers"] < 15
        assert (sheet[top + height // 2, left : left + width] == colour).all(axis=1).sum() >= 8
    # a path, no verification, an expansion
    for more in (["--no-verify"], ["--expand", "aqe"]):
        code, _, _ = run(capsys, "query", index, photos / "cat.png", "--top", 3, "--figure", tmp_path / "s.webp", *more)
        assert code == 0


def test_explain_figure(capsys, index, tmp_path):
    box = (100, 80, 400, 350)
    path = tmp_path / "match.png"
    code, out, _ = run(
        capsys,
        "explain",
        index,
        "scenes/coffee_0.jpg",
        "scenes/coffee_1.jpg",
        "--box",
        *box,
        "--json",
        "--figure",
        path,
    )
    assert code == 0
    found = json.loads(out)
    drawing = cv2.imread(str(path))
    lines = 2 + (found["inliers"] > figures.LINES)
    height, ours, theirs = match_layout(tuple(found["query"]["size"]), tuple(found["image"]["size"]), lines)
    assert drawing.shape == (height, 1600, 3)
    corners = np.array(found["placement"]["corners"])
    seen = 0
    for one, two in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        for part in (0.1, 0.3, 0.5, 0.7, 0.9):
            seen += near(drawing, on_canvas(theirs, *(one + (two - one) * part)), BOX, reach=2)
    assert seen >= 15  # lines and ellipses cover some
    assert near(drawing, on_canvas(ours, 100, 340), BOX, reach=2)
    # the drawing is the one that the function makes
    retriever = Retriever.open(index)
    explained = retriever.explain("scenes/coffee_0.jpg", "scenes/coffee_1.jpg", box)
    config = retriever.config.images
    photographs = [
        open_photograph(retriever.collection.path(f"scenes/coffee_{n}.jpg"), config, f"scenes/coffee_{n}.jpg")
        for n in (0, 1)
    ]
    np.testing.assert_array_equal(figures.explanation_drawing(explained, *photographs), drawing)


def test_figures_of_photographs_that_are_gone_or_not_found(capsys, index, tmp_path, monkeypatch):
    monkeypatch.setattr(Collection, "path", lambda _, name: tmp_path / name)
    for number, command in enumerate(
        [
            ("query", index, "scenes/coffee_0.jpg"),
            ("explain", index, "scenes/coffee_0.jpg", "scenes/coffee_1.jpg"),
            ("explain", index, "scenes/coffee_0.jpg", "ramp.png"),
        ]
    ):
        path = tmp_path / f"{number}.png"
        code, _, err = run(capsys, *command, "--figure", path)
        assert code == 0, err
        assert (cv2.imread(str(path)) == TILE).all(axis=2).sum() > 10_000


@pytest.mark.parametrize("verb", [("query",), ("explain", "brick.png")])
@pytest.mark.parametrize(("name", "word"), [("f.gif", ".png"), ("f", ".webp"), ("none/f.png", "no folder")])
def test_bad_figures_are_told_before_the_search(capsys, index, tmp_path, monkeypatch, verb, name, word):
    monkeypatch.setattr(Retriever, "open", lambda *_: pytest.fail("searched"))
    code, out, err = run(capsys, verb[0], index, "brick.png", *verb[1:], "--figure", tmp_path / name)
    assert code == 2
    assert not out
    assert err.count("\n") == 1
    assert word in err
    assert not list(tmp_path.iterdir())


def test_the_colours_of_a_file_written_by_others(tmp_path):
    """Channels are not swapped between file, array and file."""
    stream = io.BytesIO(encode(np.full((20, 20, 3), RED, np.uint8), ".png"))
    assert Image.open(stream).convert("RGB").getpixel((5, 5)) == (250, 10, 10)
    assert near(load_picture(picture(tmp_path / "p.png", form="PNG")), (5, 5), RED, tolerance=0)
    assert queries.corners((1, 2, 3, 4)).tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
