"""The page in a real Chromium: ``make test-web`` runs this; screenshots are left in runs/web.

Environment: RETRIEVAL_BROWSER the program, RETRIEVAL_AXE axe-core's axe.min.js (without it accessibility is not
checked).
"""

import os
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import pytest
import skimage.data

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("playwright", reason="needs the extra dev")

from playwright.sync_api import sync_playwright

import retrieval
from retrieval.datasets.own import read_own
from retrieval.index import changes
from retrieval.pairs import stored
from retrieval.photographs.folder import list_images
from retrieval.web.service import image_id
from tests.conftest import view
from tests.web.web_client import proxied, serving

pytestmark = pytest.mark.skipif(not os.environ.get("RETRIEVAL_BROWSER"), reason="the page in a browser: make test-web")

SHOTS = Path(__file__).parents[2] / "runs" / "web"
LOOKS = [(360, 740, "light"), (360, 740, "dark"), (1024, 768, "light"), (1920, 1080, "light"), (1920, 1080, "dark")]
QUERY, ANSWER = "scenes/coffee_0.jpg", "scenes/coffee_2.jpg"


@pytest.fixture(scope="module")
def address(signed):
    with serving(signed) as (_, found):
        yield found


@pytest.fixture(scope="module")
def chromium():
    program = os.environ["RETRIEVAL_BROWSER"]
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not run as root
    with sync_playwright() as run:
        found = run.chromium.launch(executable_path=shutil.which(program), args=options)
        yield found
        found.close()


def expected(message):
    """Whether Chromium only reports a request that was refused as it should be."""
    return "Failed to load resource" in message and any(f"status of {code}" in message for code in (404, 409, 422))


@pytest.fixture
def open_page(chromium):
    """Opens pages; fails at the end if one said anything on its console."""
    contexts, said = [], []

    def make(width=1280, height=900, scheme="light", **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: said.append(message.text) if not expected(message.text) else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == []


def drag(page, box, size=(480, 400)):
    """Drags a box, given in pixels of the photograph."""
    page.wait_for_selector(".drawing image")
    page.locator(".drawing").scroll_into_view_if_needed()
    area = page.locator(".drawing").bounding_box()
    scale = area["width"] / size[0]
    x1, y1, x2, y2 = [area["xy"[i % 2]] + (value + 0.5) * scale for i, value in enumerate(box)]
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move((x1 + x2) / 2, (y1 + y2) / 2, steps=4)
    page.mouse.move(x2, y2, steps=4)
    page.mouse.up()


def finished(page):
    page.wait_for_selector("#hits li")
    page.wait_for_selector("#results:not([aria-busy])")


def names(page):
    return page.locator("#hits .name").all_inner_texts()


def shot(page, name, whole=True):
    page.wait_for_load_state("networkidle")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=whole)


def given(page, key):
    return parse_qs(urlsplit(page.url).query).get(key, [None])[0]


def test_from_a_photograph_to_its_matches_and_back(open_page, address):
    page = open_page()
    page.goto(address)
    page.wait_for_selector("#images img")
    page.fill("#find-text", "coffee")
    page.wait_for_selector("#collection-status:has-text('3 photographs')")
    page.click(f"#images a[href*='{image_id(QUERY)}']")
    finished(page)
    assert names(page)[0] == QUERY
    drag(page, (120, 90, 380, 330))
    page.wait_for_url("**box=**")
    finished(page)
    box = [float(value) for value in given(page, "box").split(",")]
    assert all(abs(a - b) <= 2 for a, b in zip(box, (120, 90, 380, 330), strict=True))
    found = names(page)
    assert found[0] == QUERY
    assert set(found[:3]) == {f"scenes/coffee_{i}.jpg" for i in range(3)}
    assert "2 very likely" in page.inner_text("#status")  # besides the photograph itself
    assert page.locator("#hits .grade").first.inner_text() == "this photograph"
    shared = page.url
    page.click(f"#hits a[href*='hit={image_id(ANSWER)}']")
    page.wait_for_selector(".pairs image")
    assert page.locator(".pair").count() > 20
    assert "same arrangement" in page.inner_text(".lead")
    assert "very likely the same" in page.inner_text(".lead")
    assert page.locator(".pairs .outline").count() == 2
    assert page.evaluate("document.activeElement.id") == "match-title"
    page.click("button:has-text('Swap')")
    assert page.input_value("#blend") == "100"
    page.click("button:has-text('Blink')")
    page.wait_for_timeout(1000)
    page.click("button:has-text('Stop')")
    page.go_back()
    finished(page)
    page.wait_for_selector(f"a[href*='hit={image_id(ANSWER)}']:focus")  # where one had been
    assert page.url == shared
    assert names(page) == found
    page.go_forward()
    page.wait_for_selector(".pairs image")
    other = open_page()  # somebody who was sent the address
    other.goto(shared)
    finished(other)
    assert names(other) == found
    assert other.input_value("[name=x1]") == page.evaluate(
        "new URLSearchParams(location.search).get('box').split(',')[0]"
    )


TYPED = """text => {  // faster than anybody types, on any machine
    const field = document.querySelector("#find-text")
    for (const letter of text) {
        field.value += letter
        field.dispatchEvent(new Event("input", { bubbles: true }))
    }
}"""


def test_the_collection_is_filtered_as_one_types(open_page, address):
    page = open_page()
    page.goto(f"{address}/?page=1")
    page.wait_for_selector("#collection-status:has-text('9 photographs')")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/api/images?" in request.url else None)
    page.focus("#find-text")
    page.evaluate(TYPED, "Coffee ")
    page.wait_for_selector("#collection-status:has-text('3 photographs with “Coffee” in the name')")
    assert len(asked) < len("Coffee")  # not a request for every letter
    assert page.locator("#images li").count() == 3
    assert page.get_attribute("#collection-status", "role") == "status"  # which a screen reader tells
    assert page.evaluate("document.activeElement.id") == "find-text"
    assert page.input_value("#find-text") == "Coffee "  # nobody's typing is changed
    page.keyboard.type("0", delay=10)
    page.wait_for_selector("#collection-status:has-text('No photograph with “Coffee 0”')")
    for _ in range(2):
        page.keyboard.press("Backspace")
    page.keyboard.type("_1")
    page.wait_for_selector("#collection-status:has-text('1 photograph with “Coffee_1”')")
    assert given(page, "find") == "Coffee_1"
    page.go_back()  # to before the first letter
    page.wait_for_selector("#collection-status:has-text('9 photographs')")
    assert page.input_value("#find-text") == ""
    page.go_forward()
    page.wait_for_selector("#collection-status:has-text('1 photograph with')")
    assert page.input_value("#find-text") == "Coffee_1"
    page.fill("#find-text", "ramp")
    page.press("#find-text", "Enter")  # without waiting
    page.wait_for_selector("#collection-status:has-text('1 photograph with “ramp”')")


@pytest.mark.parametrize("width", [360, 1280])
def test_what_cannot_be_found_is_marked(open_page, address, width):
    page = open_page(width, 740)
    page.goto(address)
    page.wait_for_selector("#images img")
    assert page.locator("#images .unfindable").count() == 1
    assert "cannot be found" in page.inner_text(f"#images a[href*='{image_id('ramp.png')}']")
    page.locator(".unfindable").scroll_into_view_if_needed()
    shot(page, f"unfindable-{width}", whole=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click(f"#images a[href*='{image_id('ramp.png')}']")
    page.wait_for_selector("#status:has-text('cannot be found either')")


def test_a_mirrored_photograph(open_page, address, photos, tmp_path):
    name = "scenes/astronaut_1.jpg"
    cv2.imwrite(str(tmp_path / "flipped.png"), cv2.imread(str(photos / name))[:, ::-1])
    page = open_page()
    page.goto(address)
    page.wait_for_selector("#images img")
    page.set_input_files("#file", tmp_path / "flipped.png")
    finished(page)
    assert "very likely" not in page.inner_text("#hits")
    page.check("[name=mirror]")
    page.wait_for_url("**mirror=1**")
    page.wait_for_selector("#hits li:first-child:has-text('very likely the same, mirrored')")
    finished(page)
    assert names(page)[0] == name
    shot(page, "mirrored-1280")
    page.click("#hits a >> nth=0")
    page.wait_for_selector(".pairs image")
    assert "the second photograph shows it mirrored, at the same size" in page.inner_text(".lead")
    shot(page, "mirrored-match-1280")


def test_an_uploaded_photograph(open_page, address, tmp_path):
    picture, _ = view(skimage.data.astronaut()[:, :, ::-1], 0.7, 3, (10, 4))
    cv2.imwrite(str(tmp_path / "<b>my photo.jpg"), picture)
    page = open_page()
    page.goto(address)
    page.set_input_files("#file", tmp_path / "<b>my photo.jpg")
    finished(page)
    assert "(uploaded)" in page.inner_text("#query-name")
    assert names(page)[0].startswith("scenes/astronaut")
    key = given(page, "q")
    assert len(key) == 32
    page.click("#hits a >> nth=0")
    page.wait_for_selector(".pairs image")
    page.goto(f"{address}/?q={'0' * 32}")
    page.wait_for_selector("#problem:has-text('upload it again')")


def test_what_cannot_be_used_is_told(open_page, address, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photograph")
    page = open_page()
    page.goto(address)
    page.wait_for_selector("#images img")
    with page.expect_response("**/api/uploads"):
        page.set_input_files("#file", tmp_path / "notes.jpg")
    page.wait_for_selector("#problem:has-text('cannot be used as a photograph')")
    assert page.locator("#images li").count() > 0


def test_dropped_and_pasted(open_page, address, photos):
    page = open_page()
    page.goto(address)
    page.wait_for_selector("#images img")
    data = list((photos / QUERY).read_bytes())
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, data]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(data)], `${kind}.jpg`));
                const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: transfer })
                                              : new ClipboardEvent("paste", { clipboardData: transfer });
                dispatchEvent(event);
            }""",
            [kind, data + list(kind.encode())],
        )
        page.wait_for_selector(f"#query-name:has-text('{kind}.jpg')")
        finished(page)
        assert names(page)[0] == QUERY


def test_with_the_keyboard_alone(open_page, address):
    page = open_page()
    page.goto(address)
    page.wait_for_selector("#images img")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#images') !== null"):
            break
    page.keyboard.press("Enter")
    finished(page)
    page.focus("[name=x1]")
    for value in ("60", "60", "300", "260"):
        page.keyboard.type(value)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the button after the fields
    page.wait_for_url("**box=60,60,300,260**")
    finished(page)
    page.fill("[name=x2]", "10")
    page.press("[name=x2]", "Enter")
    page.wait_for_selector("#problem:has-text('right must exceed left')")
    for option in ("none", "aqe", "hqe"):
        page.check(f"[value={option}]")
        page.wait_for_url(f"**expand={option}**")
        finished(page)
    page.check("[name=expand][value='']")
    page.wait_for_selector("[name=verify]:enabled")
    page.uncheck("[name=verify]")
    page.wait_for_url("**verify=0**")
    finished(page)
    assert "similar details only" in page.inner_text("#hits")


def test_without_signatures_hqe_is_not_offered(open_page, index):
    with serving(index) as (_, address):
        page = open_page()
        page.goto(f"{address}/?q={image_id(QUERY)}")
        finished(page)
        assert page.is_disabled("[value=hqe]")
        assert "no signatures" in page.inner_text("#hqe-note")
        assert "no signatures" in page.inner_text("#auto-note")


def test_under_a_path_of_a_proxy(open_page, index, photos, tmp_path):
    """The whole way over TLS: the token, a search, an upload, a match, back, and the page of the API."""
    token = "a-long-enough-token"
    options = ("--root-path", "/photos", "--token", token)
    with serving(index, *options) as (_, address), proxied(tmp_path, address, strip=False) as (_, port):
        page = open_page(ignore_https_errors=True)
        failed = []
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        start = f"https://127.0.0.1:{port}/photos/"
        page.goto(f"{start}?token={token}")
        page.click(f"#images a[href*='{image_id(QUERY)}']")
        finished(page)
        assert page.url == f"{start}?q={image_id(QUERY)}"
        assert names(page)[0] == QUERY
        page.click(f"#hits a[href*='hit={image_id(ANSWER)}']")
        page.wait_for_selector(".pairs image")
        page.go_back()
        finished(page)
        page.set_input_files("#file", photos / ANSWER)
        page.wait_for_selector("#query-name:has-text('(uploaded)')")
        finished(page)
        page.click("footer a")
        page.wait_for_selector(".operation")
        assert page.url == f"{start}docs"
        assert f"{start}api/search" in page.inner_text("#operations")
        page.click("a.brand")
        page.wait_for_selector("#images img")
        assert page.url == start
        assert failed == []


def test_less_motion(open_page, address):
    page = open_page(reduced_motion="reduce")
    page.goto(f"{address}/?q={image_id(QUERY)}&hit={image_id(ANSWER)}")
    page.wait_for_selector(".blink image")
    assert page.is_hidden("button:has-text('Blink')")
    assert page.is_visible("button:has-text('Swap')")


def test_touch(open_page, address):
    page = open_page(360, 740, has_touch=True, is_mobile=True)
    page.goto(f"{address}/?q={image_id(QUERY)}")
    finished(page)
    page.locator(".drawing").scroll_into_view_if_needed()
    area = page.locator(".drawing").bounding_box()
    session = page.context.new_cdp_session(page)
    places = [(0.25, 0.25), (0.5, 0.5), (0.8, 0.8)]
    for i, (x, y) in enumerate(places):
        point = {"x": area["x"] + x * area["width"], "y": area["y"] + y * area["height"]}
        kind = "touchStart" if i == 0 else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_url("**box=**")
    finished(page)
    assert names(page)[0] == QUERY


def accessible(page, name):
    """axe finds nothing serious, where it is there."""
    axe = os.environ.get("RETRIEVAL_AXE")
    if not axe:
        return
    page.evaluate(Path(axe).read_text())
    results = page.evaluate("axe.run()")
    bad = [
        (one["id"], one["impact"], [node["target"] for node in one["nodes"]][:5])
        for one in results["violations"]
        if one["impact"] in ("serious", "critical")
    ]
    assert bad == [], name
    assert len(results["passes"]) > 10


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_looks_and_accessibility(open_page, address, width, height, scheme):
    """Every view at each size: nothing is wider than the screen, and axe finds nothing serious."""
    page = open_page(width, height, scheme, bypass_csp=True)  # so that axe can be put in
    query = f"?q={image_id(QUERY)}&box=120,90,380,330"
    views = {
        "collection": ("/", "#images img"),
        "search": (f"/{query}", "#hits li"),
        "match": (f"/{query}&hit={image_id(ANSWER)}", ".pairs image"),
        "nothing": (f"/{query}&hit={image_id('cat.png')}", ".pairs image"),
        "gone": (f"/?q={'0' * 32}", "#problem:not([hidden])"),
        "api": ("/docs", ".operation"),
    }
    for name, (path, there) in views.items():
        page.goto(address + path)
        page.wait_for_selector(there)
        shot(page, f"{name}-{width}-{scheme}", whole=name != "api")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if name == "search":
            photograph, tools = (page.locator(part).bounding_box() for part in (".drawing", "#tools"))
            beside = tools["x"] >= photograph["x"] + photograph["width"]
            assert beside if width > 900 else tools["y"] >= photograph["y"] + photograph["height"]
        accessible(page, name)
    if not os.environ.get("RETRIEVAL_AXE"):
        pytest.skip("axe-core is not there (npm): accessibility was not checked")


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_what_could_not_be_searched_is_told(open_page, address, width, height, scheme):
    """An answer of a server whose index is partly away, which a screen reader tells and no search hides."""
    page = open_page(width, height, scheme, bypass_csp=True)
    away = []

    def answered(route):
        found = route.fetch()
        tree = found.json()
        route.fulfill(response=found, json=tree | ({"partial": True, "missing": away} if away else {}))

    page.route("**/api/search", answered)
    page.route("**/api/explain*", answered)
    away.append({"segments": ["000001", "000002"], "images": 1})
    away.append({"segments": ["000004"], "images": 2})
    page.goto(f"{address}/?q={image_id(QUERY)}")
    finished(page)
    told = "Partial: 3 of 9 photographs could not be searched"
    page.wait_for_selector(f"#partial[role=status]:has-text('{told}')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shot(page, f"partial-{width}-{scheme}")
    if os.environ.get("RETRIEVAL_AXE"):
        accessible(page, "partial")
    page.click(f"#hits a[href*='hit={image_id(ANSWER)}']")
    page.wait_for_selector(f"#match .note[role=status]:has-text('{told}')")
    away.clear()
    page.go_back()  # it is searched again, as what was away may be back
    finished(page)
    page.wait_for_selector("#partial", state="hidden")
    assert names(page)[0] == QUERY


def radio(page, name, value):
    return page.locator(f"#hits li:has(a[href*='hit={image_id(name)}']) [value='{value}']")


def marked(page, name):
    """What the card of a photograph shows to be said of it."""
    item = page.locator(f"#hits li:has(a[href*='hit={image_id(name)}'])")
    shown = item.get_attribute("data-mark")
    assert item.locator(":checked").get_attribute("value") == shown
    return shown


def said(page, text):
    page.wait_for_selector(f"#label-status:has-text('{text}')")


@pytest.fixture
def labelling(signed, tmp_path):
    """The page in its labelling mode, and the file."""
    file = tmp_path / "labels.csv"
    with serving(signed, "--labels", file, verb="label") as (_, address):
        yield address, file


def labels_of(file, photos):
    truth = read_own(file, list_images(photos))
    return {query.name: {label: set(names) for label, names in query.labels.items()} for query in truth.queries}


def test_labelling_with_the_keyboard_alone(open_page, labelling, photos):
    address, file = labelling
    page = open_page()
    page.goto(f"{address}/?q={image_id(QUERY)}")
    page.wait_for_selector("#hits .marks")
    assert "0 of 8 queries labelled" in page.inner_text("#progress")  # one photograph has nothing to be found by
    page.keyboard.press("r")  # nowhere in particular: it belongs to the browser
    page.focus("#results-title")
    page.keyboard.press("Tab")  # to the photograph itself, which is not marked
    page.keyboard.press("Tab")
    hits = names(page)
    assert hits[0] == QUERY
    assert page.evaluate("document.activeElement.getAttribute('href')").endswith(f"hit={image_id(hits[1])}")
    for key, name, word in (("r", hits[1], "right"), ("w", hits[2], "wrong"), ("j", hits[3], "junk")):
        page.keyboard.press(key)
        said(page, f"{name}: {word}. Saved.")
    assert [marked(page, name) for name in hits[1:5]] == ["positive", "wrong", "junk", ""]
    assert labels_of(file, photos) == {QUERY: {"positive": {hits[1]}, "junk": {hits[3], QUERY}}}
    assert hits[2] in file.read_text()
    assert page.evaluate("document.activeElement.name") == f"mark-{image_id(hits[4])}"  # it went on to the next
    assert "1 of 8 queries labelled" in page.inner_text("#progress")
    before = file.read_text()
    page.keyboard.press("Control+j")  # the browser's
    page.keyboard.press("Space")  # the mark that has the focus: none as yet
    page.keyboard.press("ArrowRight")  # from none to the first, right
    said(page, f"{hits[4]}: right. Saved.")
    page.keyboard.press("Delete")
    said(page, f"{hits[4]}: not marked. Saved.")
    assert file.read_text() == before
    for text in (
        f"{hits[4]} is right",
        f"{hits[4]} is not marked",
        f"{hits[3]} is not marked",
        f"{hits[2]} is not marked",
    ):
        page.keyboard.press("u")  # the focus goes to what was undone
        said(page, f"Undone: {text}")
    page.keyboard.press("u")
    said(page, f"Undone: {hits[1]} is not marked")
    page.keyboard.press("u")
    said(page, "There is nothing to undo")
    assert file.read_text().count("\n") == 1  # the header
    page.keyboard.press("r")
    said(page, f"{hits[1]}: right. Saved.")
    page.keyboard.type("wjruu")  # faster than the server answers: the last two take back the last two
    said(page, f"Undone: {hits[3]} is not marked")
    assert [marked(page, name) for name in hits[1:5]] == ["positive", "wrong", "", ""]
    page.keyboard.press("n")
    page.wait_for_selector("#results-title:focus")
    following = given(page, "q")
    assert following != image_id(QUERY)
    page.wait_for_selector("#hits .marks")
    assert page.locator("#hits :checked:not([value=''])").count() == 0
    assert page.get_attribute("#label-status", "aria-live") == "polite"


def test_labelling_with_the_mouse_and_again_later(open_page, signed, photos, tmp_path):
    file, others = tmp_path / "labels.csv", [f"scenes/coffee_{i}.jpg" for i in (1, 2)]
    (tmp_path / "names.txt").write_text(f"{QUERY}\nscenes/astronaut_0.jpg\n")
    options = ("--labels", file, "--queries", tmp_path / "names.txt")
    with serving(signed, *options, verb="label") as (process, address):
        page = open_page()
        page.goto(address)
        page.wait_for_selector("#progress:has-text('0 of 2 queries labelled')")
        page.click("#next")
        page.wait_for_selector("#hits .marks")
        assert given(page, "q") == image_id(QUERY)
        for name in others:
            radio(page, name, "positive").click()
            said(page, f"{name}: right. Saved.")
        radio(page, others[1], "junk").click()
        said(page, f"{others[1]}: junk. Saved.")
        page.click("#undo")
        said(page, f"Undone: {others[1]} is right. Saved.")
        drag(page, (120, 90, 380, 330))
        page.wait_for_url("**box=**")
        finished(page)
        page.wait_for_selector("#hits .marks")
        assert [marked(page, name) for name in others] == ["", ""]  # a box is another query
        radio(page, others[0], "positive").click()
        said(page, f"{others[0]}: right. Saved.")
        assert page.is_hidden("#label-after")
        page.click("#next-below")
        page.wait_for_url(f"**q={image_id('scenes/astronaut_0.jpg')}**")
        page.wait_for_selector("#hits .marks")
        radio(page, "scenes/astronaut_1.jpg", "positive").click()
        page.wait_for_selector("#progress:has-text('2 of 2 queries labelled: all of them')")
        assert page.inner_text("#label-command") == f"retrieval evaluate photos.index {file.name}"
        assert page.is_hidden("#next")
        page.set_input_files("#file", photos / QUERY)
        page.wait_for_selector("#label-note:has-text('cannot be marked')")
        finished(page)
        assert page.locator("#hits .marks").count() == 0
    assert f"retrieval evaluate {signed} {file}" in process.out
    truth = labels_of(file, photos)
    assert truth[QUERY]["positive"] == set(others)
    assert len(truth) == 3
    assert sum(" [" in name for name in truth) == 1
    with serving(signed, *options, verb="label") as (_, address):
        page = open_page()
        page.goto(f"{address}/?q={image_id(QUERY)}")
        page.wait_for_selector("#hits .marks")
        assert [marked(page, name) for name in others] == ["positive", "positive"]
        radio(page, others[1], "").click()
        said(page, f"{others[1]}: not marked. Saved.")
        assert labels_of(file, photos)[QUERY]["positive"] == {others[0]}


def test_two_tabs_keep_each_others_marks(open_page, labelling, photos):
    address, file = labelling
    pages = [open_page(), open_page()]
    for page in pages:
        page.goto(f"{address}/?q={image_id(QUERY)}")
        page.wait_for_selector("#hits .marks")
    first, second = "scenes/coffee_1.jpg", "scenes/coffee_2.jpg"
    radio(pages[0], first, "positive").click()
    said(pages[0], "Saved")
    radio(pages[1], second, "positive").click()
    said(pages[1], "Saved")
    assert marked(pages[1], first) == "positive"  # what the other tab said comes with the answer
    assert labels_of(file, photos)[QUERY]["positive"] == {first, second}
    radio(pages[1], first, "junk").click()
    said(pages[1], f"{first}: junk")
    pages[0].click("#undo")
    pages[0].wait_for_selector("#problem:has-text('Not saved')")
    assert "changed elsewhere meanwhile" in pages[0].inner_text("#problem")
    assert marked(pages[0], first) == "junk"
    assert labels_of(file, photos)[QUERY]["junk"] == {first, QUERY}


def test_what_was_not_saved_is_not_shown(open_page, labelling):
    address, file = labelling
    page = open_page()
    page.goto(f"{address}/?q={image_id(QUERY)}")
    page.wait_for_selector("#hits .marks")
    radio(page, "scenes/coffee_1.jpg", "positive").click()
    said(page, "Saved")
    file.write_text("image,positives\nnowhere.jpg,cat.png\n")
    radio(page, "cat.png", "wrong").click()
    page.wait_for_selector("#problem:has-text('Not saved')")
    assert "The file labels.csv, line 2, image: the index has no photograph" in page.inner_text("#problem")
    assert str(file.parent) not in page.inner_text("#problem")
    assert marked(page, "cat.png") == ""
    assert file.read_text() == "image,positives\nnowhere.jpg,cat.png\n"


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_labelling_looks_and_accessibility(open_page, labelling, width, height, scheme):
    page = open_page(width, height, scheme, bypass_csp=True)
    for name, path, there in (("label", f"/?q={image_id(QUERY)}", "#hits .marks"), ("label-start", "/", "#images img")):
        page.goto(labelling[0] + path)
        page.wait_for_selector(there)
        page.wait_for_selector("#labelling:visible")
        page.click("#labelling summary")
        if name == "label":
            for value, hit in (
                ("positive", "scenes/coffee_1.jpg"),
                ("wrong", "cat.png"),
                ("junk", "scenes/coffee_2.jpg"),
            ):
                radio(page, hit, value).click()
                said(page, f"{hit}: ")
            target = page.locator(".marks label").first.bounding_box()
            assert min(target["width"], target["height"]) >= 24  # WCAG 2.2, 2.5.8
            radio(page, "cat.png", "wrong").focus()
            page.keyboard.press("Shift")  # as from the keyboard
            span = "document.activeElement.nextElementSibling"
            assert page.evaluate(f"getComputedStyle({span}).outlineStyle") == "solid"
        shot(page, f"{name}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        accessible(page, name)


@pytest.fixture(scope="module")
def grouped(signed, photos, tmp_path_factory):
    """The page on an index with pairs beside it, and a copy among its photographs."""
    folder = tmp_path_factory.mktemp("grouped")
    shutil.copytree(signed, folder / "photos.index")
    (folder / "more").mkdir()
    picture = cv2.imread(str(photos / QUERY))
    cv2.imwrite(str(folder / "more" / "saved again.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    changes.add(retrieval.Collection.open(folder / "photos.index"), [folder / "more"])
    retrieval.Collection.open(folder / "photos.index").pairs(stored.beside(folder / "photos.index"))
    with serving(folder / "photos.index") as (_, found):
        yield found


def focused(page, key):
    """The value of a parameter of the link that has the focus."""
    return parse_qs(urlsplit(page.evaluate("document.activeElement.href")).query).get(key, [None])[0]


def test_from_a_hit_to_all_of_this_and_to_a_match(open_page, grouped):
    page = open_page()
    page.goto(f"{grouped}/?q={image_id(QUERY)}")
    finished(page)
    page.wait_for_selector("#hits .all")
    hits = page.locator("#hits li:has(.all)").locator(".name").all_inner_texts()
    assert {name.split("/")[-1].split("_")[0] for name in hits} == {"coffee", "astronaut", "saved again.jpg"}
    answer = page.locator(f"#hits li:has(a[href*='hit={image_id(ANSWER)}']) .all")
    assert answer.inner_text().startswith("Show all 4 of this")
    answer.click()
    page.wait_for_selector("#groups-title:focus:has-text('4 photographs that show the same')")
    assert (given(page, "groups"), given(page, "of"), given(page, "links")) == ("sure", image_id(ANSWER), None)
    shown = page.locator("#members .card > .name").all_inner_texts()
    assert shown == ["saved again.jpg", *(f"scenes/coffee_{i}.jpg" for i in range(3))]
    assert page.locator("#members li:has-text('copy of saved again.jpg')").count() == 1
    assert page.locator("#members [aria-current]").get_attribute("id") == f"member-{image_id(ANSWER)}"
    assert page.locator(".links").count() == 0  # on demand
    page.click(f"#member-{image_id(QUERY)}")
    page.wait_for_selector("#groups-status:has-text('Linked with 3 photographs')")
    assert (given(page, "of"), given(page, "links")) == (image_id(QUERY), "1")
    assert page.locator(".links g").count() == page.locator("#members .details").count() == 3
    assert page.evaluate("document.activeElement.id") == f"member-{image_id(QUERY)}"  # where one is
    reached = page.evaluate("""[...document.querySelectorAll(".links g circle")].map((one) => {
        const { left, top, width, height } = one.getBoundingClientRect();
        document.querySelectorAll(".links").forEach((all) => { all.hidden = true; });
        return document.elementFromPoint(left + width / 2, top + height / 2).closest("#members li").className;
    })""")
    assert reached == ["joined"] * 3
    details = page.locator(f"#members li:has(#member-{image_id(ANSWER)}) .details")
    count = int(details.inner_text().split()[0])
    assert count >= 12
    details.click()
    page.wait_for_selector(".pairs image")
    assert page.inner_text(".lead").startswith(f"{count} details")  # those of the link
    page.click("#match a:has-text('Back to the group')")
    page.wait_for_selector(".links g")
    assert page.evaluate("document.activeElement.className").startswith("details")
    assert {focused(page, "q"), focused(page, "hit")} == {image_id(QUERY), image_id(ANSWER)}
    page.click("#draw")
    page.wait_for_selector(".links", state="detached")
    assert page.evaluate("document.activeElement.id") == "draw"
    assert page.locator("#members .details").count() == 0
    for _ in range(5):
        page.go_back()
    page.wait_for_selector("#results:visible")
    page.wait_for_selector(".all:focus")
    assert focused(page, "of") == image_id(ANSWER)
    page.go_forward()
    page.wait_for_selector(f"#member-{image_id(ANSWER)}")
    page.click("#chosen a:has-text('Search with it')")
    finished(page)
    assert names(page)[0] == ANSWER


def test_groups_with_the_keyboard_alone(open_page, grouped):
    page = open_page()
    page.goto(grouped)
    page.wait_for_selector("#images img")
    page.focus("#views a >> nth=0")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#groups-title:focus")
    assert page.get_attribute("#views a >> nth=1", "aria-current") == "page"
    assert "2 groups of 7 photographs; 3 are in none." in page.inner_text("#groups-status")
    assert page.locator("#group-list h2").all_inner_texts() == ["Group 1: 4 photographs", "Group 2: 3 photographs"]
    assert page.locator("#group-list .badge").all_text_contents() == ["copy of saved again.jpg"]
    page.keyboard.press("Tab")  # how sure, of which the first is in use
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#trust-perhaps[aria-current]:focus")
    assert given(page, "groups") == "perhaps"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused(page, "of") == image_id("saved again.jpg")
    page.keyboard.press("Enter")
    page.wait_for_selector("#groups-title:focus:has-text('4 photographs that show the same')")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # all groups
    page.wait_for_selector("#group-list h2")
    page.wait_for_selector("#group-list h2:focus, #group-list h2 :focus")  # where one had been
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # the second picture of the group
    page.keyboard.press("Enter")
    page.wait_for_selector(".links g")
    assert (given(page, "of"), given(page, "groups")) == (image_id("scenes/coffee_0.jpg"), "perhaps")
    page.go_back()
    page.wait_for_selector(".tile:focus")
    other = open_page()  # somebody who was sent the address
    other.goto(f"{grouped}/?groups=perhaps&of={image_id(QUERY)}&links=1")
    other.wait_for_selector(".links g")
    other.goto(f"{grouped}/?groups=sure&of={image_id('cat.png')}")
    other.wait_for_selector("#groups-lead:has-text('No other photograph is known to show the same as cat.png')")
    assert other.locator("#members li").count() == 1
    assert other.locator("#draw").count() == 0
    other.goto(f"{grouped}/?groups=sure&of={'0' * 16}")
    other.wait_for_selector("#problem:has-text('it may have been removed')")
    other.wait_for_selector("#images img")


def test_groups_and_their_photographs_come_in_pages(open_page, grouped):
    page = open_page()
    page.route("**/api/groups?*", lambda route: route.continue_(url=route.request.url.replace("size=24", "size=1")))
    page.route("**/api/groups/*", lambda route: route.continue_(url=f"{route.request.url}&size=2"))
    page.goto(f"{grouped}/?groups=sure")
    page.click("#groups-pager a:has-text('2')")
    page.wait_for_selector("#group-list img[alt*=astronaut]")
    assert given(page, "page") == "2"
    page.goto(f"{grouped}/?groups=sure&of={image_id(ANSWER)}&links=1")
    page.wait_for_selector(".links g")
    assert "3 photographs, 2 of them on other pages" in page.inner_text("#groups-status")
    assert page.get_attribute("#groups-pager [aria-current]", "aria-label") == "Page 2"
    page.click("#groups-pager a:has-text('1')")
    page.wait_for_selector(f"#member-{image_id(QUERY)}")
    assert page.locator("#members .details").count() == 2
    assert page.locator(".links").count() == 0  # they would lead to a picture that is not there


def test_what_has_to_be_run_for_groups_is_told(open_page, signed, photos, tmp_path):
    folder = tmp_path / "mine.index"
    shutil.copytree(signed, folder)
    with serving(folder) as (_, address):
        page = open_page()
        page.goto(f"{address}/?groups=sure")
        page.wait_for_selector("#groups-note:has-text('retrieval groups mine.index')")
        assert not stored.beside(folder).exists()
        page.goto(f"{address}/?q={image_id(QUERY)}")
        finished(page)
        page.wait_for_load_state("networkidle")
        assert page.locator("#hits .all").count() == 0
        retrieval.Collection.open(folder).pairs(stored.beside(folder))
        page.goto(f"{address}/?groups=sure")
        page.wait_for_selector("#group-list img")
        assert page.is_hidden("#groups-note")
        (tmp_path / "new").mkdir()
        cv2.imwrite(str(tmp_path / "new" / "another.png"), cv2.imread(str(photos / QUERY)))
        changes.add(retrieval.Collection.open(folder), [tmp_path / "new"])
        for _ in range(1200):  # the server looks every two seconds
            page.wait_for_timeout(500)
            page.reload()
            page.wait_for_selector("#group-list img")
            if page.is_visible("#groups-note"):
                break
        assert "1 photograph came into the collection" in page.inner_text("#groups-note")
        assert page.locator("#group-list h2").count() == 2
        (stored.beside(folder) / "manifest.json").write_text("{}")
        page.reload()
        page.wait_for_selector("#problem:has-text('are damaged or of other settings: delete them')")
        assert page.locator("#group-list li").count() == 0


@pytest.mark.parametrize(("width", "height", "scheme"), LOOKS)
def test_groups_look_and_accessibility(open_page, grouped, address, width, height, scheme):
    page = open_page(width, height, scheme, bypass_csp=True)
    of = f"/?groups=sure&of={image_id(QUERY)}"
    views = {
        "groups": (f"{grouped}/?groups=sure", "#group-list img"),
        "group": (f"{grouped}{of}", "#members img"),
        "group-links": (f"{grouped}{of}&links=1", ".links g"),
        "groups-none": (f"{address}/?groups=sure", "#groups-note:visible"),
        "show-all": (f"{grouped}/?q={image_id(QUERY)}", "#hits .all"),
    }
    for name, (path, there) in views.items():
        page.goto(path)
        page.wait_for_selector(there)
        shot(page, f"{name}-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for target in page.locator(".details, .all, .choice a, .views a, .tile").all():
            box = target.bounding_box()
            if box:
                assert min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8
        accessible(page, name)


def test_the_page_follows_the_index(open_page, index, photos, tmp_path):
    folder = tmp_path / "x.index"
    shutil.copytree(index, folder)
    with serving(folder) as (_, address):
        page = open_page()
        page.goto(address)
        page.wait_for_selector("#collection-status:has-text('9 photographs')")
        changes.remove(folder, ["cat.png"])
        for _ in range(1200):
            page.wait_for_timeout(500)
            page.reload()
            page.wait_for_selector("#images img")
            if "8 photographs" in page.inner_text("#collection-status"):
                return
        raise AssertionError("the removed photograph is still there")
