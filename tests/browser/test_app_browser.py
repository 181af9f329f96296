"""The app as its readers use it: by pointer, by keyboard, on a telephone; nothing leaves this machine."""

import json
import math
import re
import shutil

import pytest
from PIL import Image

from tests.app.runs import HOSTILE, MARKUP, tables_alone
from tests.browser.conftest import Served


def opened(watch, served: Served, state: str = "", **options):
    """The app's page when all is there."""
    shown = watch(**options)
    shown.page.goto(served.link)
    if state:
        shown.page.goto(f"{served.address}/#{state}")
        shown.page.reload()
    shown.page.wait_for_selector("html[data-ready]", state="attached")
    return shown


def well(shown, served: Served) -> None:
    """Nothing went wrong, and nobody else was asked."""
    assert shown.wrong == []
    assert all(url.startswith(served.address) for url in shown.requests)


def draw(page, radius: float = 110.0) -> int:
    """A circle around the middle of the map; how many samples are in it."""
    box = page.locator("#map").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.click("#lasso")
    page.mouse.move(x + radius, y)
    page.mouse.down()
    for i in range(1, 33):
        page.mouse.move(x + radius * math.cos(i * math.pi / 16), y + radius * math.sin(i * math.pi / 16))
    page.mouse.up()
    page.wait_for_selector("#panel-selection h2")
    return int(re.findall(r"\d+", page.locator("#panel-selection h2").inner_text())[0])


def point(page, served: Served, position: int) -> tuple[float, float]:
    """Where a sample lies on the screen."""
    points = served.state.points
    x, y = float(points.x[position]), float(points.y[position])
    at = page.evaluate("([y, x]) => krepes.map.map.latLngToContainerPoint([y, x])", [y, x])
    box = page.locator("#map").bounding_box()
    return box["x"] + at["x"], box["y"] + at["y"]


def test_a_click_on_a_point_opens_its_explanation(watch, image_app):
    shown = opened(watch, image_app)
    shown.page.uncheck("#marks")
    shown.page.mouse.click(*point(shown.page, image_app, 7))
    heading = shown.page.locator("#panel-explanation h2")
    heading.wait_for()
    position = shown.page.evaluate("krepes.position")
    assert heading.inner_text().startswith(image_app.state.points.id(position))
    assert abs(image_app.state.points.x[position] - image_app.state.points.x[7]) < 0.2
    parts = shown.page.locator("#panel-explanation .sum b").all_inner_texts()
    *shares, total = (float(t.replace("−", "-").lstrip("= ")) for t in parts)
    assert total == pytest.approx(sum(shares), abs=2.1e-3)
    picture = shown.page.locator("#panel-explanation .pic").first
    assert picture.evaluate("i => i.decode().then(() => i.naturalWidth > 0)")
    shown.screenshot("app-explanation")
    well(shown, image_app)


def test_the_map_moves_and_zooms_with_the_keyboard(watch, image_app):
    shown = opened(watch, image_app)
    before = shown.page.evaluate("krepes.map.view")
    shown.page.locator("#map").focus()
    shown.page.keyboard.press("+")
    shown.page.wait_for_timeout(500)
    shown.page.keyboard.press("ArrowRight")
    shown.page.wait_for_timeout(500)
    after = shown.page.evaluate("krepes.map.view")
    assert after["z"] > before["z"]
    assert after["x"] > before["x"]
    well(shown, image_app)


def test_the_map_has_the_same_directions_as_the_report(watch, image_app):
    shown = opened(watch, image_app)
    points = image_app.state.points
    high, low = (point(shown.page, image_app, int(i)) for i in (points.y.argmax(), points.y.argmin()))
    assert high[1] < low[1]
    left, right = (point(shown.page, image_app, int(i)) for i in (points.x.argmin(), points.x.argmax()))
    assert left[0] < right[0]


def test_points_are_drawn_where_a_click_finds_them(watch, image_app):
    """The picture of the map is not empty around the highest and the lowest sample, and is beside them."""
    shown = opened(watch, image_app)
    page, points = shown.page, image_app.state.points
    page.uncheck("#marks")
    page.wait_for_timeout(700)
    page.screenshot(path=(path := shown.folder / "map.png"))
    with Image.open(path) as image:
        pixels = image.convert("RGB")
        ground = pixels.getpixel(tuple(int(page.locator("#map").bounding_box()[k]) + 80 for k in ("x", "y")))
        for i in (points.y.argmax(), points.y.argmin(), points.x.argmax()):
            x, y = (round(v) for v in point(page, image_app, int(i)))
            around = [pixels.getpixel((x + dx, y + dy)) for dx in range(-2, 3) for dy in range(-2, 3)]
            assert any(colour != ground for colour in around)


def test_a_lasso_selects_and_its_group_is_scored_and_removed(watch, table_app):
    shown = opened(watch, table_app)
    page = shown.page
    chosen = draw(page, 230)
    assert 0 < chosen < 120
    assert page.get_by_text("Landmarks that its samples have in common").is_visible()
    assert page.get_by_text("How it differs from all samples").is_visible()
    assert shown.violations() == []
    shown.screenshot("app-selection")
    page.click("text=Use as positive side")
    page.click("text=Score this concept")
    page.wait_for_selector("text=push of the step along it", timeout=60_000)
    page.click("text=Solve again without them")
    page.wait_for_selector("text=Without as many at random", timeout=60_000)
    shown.screenshot("app-concept-and-counterfactual")
    with page.expect_download() as saved:
        page.click("text=Save as CSV")
    assert len(saved.value.path().read_text().splitlines()) == chosen + 1
    page.click("text=List them")
    page.wait_for_selector(f"text=1–{min(chosen, 50)} of {chosen} sample")
    assert page.locator("#panel-samples tbody tr").count() == min(chosen, 50)
    well(shown, table_app)


def test_escape_gives_a_lasso_up(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.click("#lasso")
    assert shown.page.locator("#lasso").get_attribute("aria-pressed") == "true"
    shown.page.keyboard.press("Escape")
    assert shown.page.locator("#lasso").get_attribute("aria-pressed") == "false"
    shown.page.mouse.click(*point(shown.page, table_app, 3))
    shown.page.wait_for_selector("#panel-explanation h2")


def test_a_click_right_after_escape_counts(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.click("#lasso")
    x, y = point(shown.page, table_app, 3)
    shown.page.evaluate(
        """([x, y]) => {
          document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
          const at = { clientX: x, clientY: y, bubbles: true, view: window };
          const map = krepes.map.map.getContainer();
          for (const type of ["mousedown", "mouseup", "click"]) map.dispatchEvent(new MouseEvent(type, at));
        }""",
        [x, y],
    )
    shown.page.wait_for_selector("#panel-explanation h2")


def test_numbers_are_what_they_are(watch, table_app):
    shown = opened(watch, table_app)
    values = [100, 120, 200, 0.5, 1e-7, 185234.4, -3.14159, 0, 1000, 12.34, None]
    found = shown.page.evaluate("(v) => import('/static/dom.js').then((m) => v.map(m.number))", values)
    assert found == ["100", "120", "200", "0.5", "1e−7", "185,234", "−3.14", "0", "1,000", "12.3", "–"]
    zeros = shown.page.evaluate("() => import('/static/dom.js').then((m) => [m.signed(-0.0004), m.signed(0.2)])")
    assert zeros == ["0.000", "+0.200"]


def test_the_model_that_comes_late_leaves_readers_where_they_are(watch, image_folder):
    served = Served(image_folder, live=False)
    try:
        shown = opened(watch, served)
        shown.page.evaluate("krepes.explain(3)")
        shown.page.wait_for_selector("#panel-explanation h2")
        assert shown.page.get_by_text("the model is being loaded").is_visible()
        shown.page.click("#tab-samples")
        shown.page.evaluate("krepes.map.go({ x: 0, y: 0, z: 4 })")
        view = shown.page.evaluate("krepes.map.view")
        served.state.live.load()
        shown.page.wait_for_selector("text=model ready")
        shown.page.wait_for_selector("#panel-explanation .total", state="attached")
        assert shown.page.locator("#panel-samples").is_visible()
        assert shown.page.evaluate("krepes.map.view") == view
        well(shown, served)
    finally:
        served.stop()


def test_all_in_view_are_selected_without_a_pointer(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.locator("#in-view").press("Enter")
    shown.page.wait_for_selector("text=120 samples selected")
    well(shown, table_app)


def test_samples_are_found_by_query_and_a_mistake_is_told(watch, table_app):
    shown = opened(watch, table_app)
    page = shown.page
    page.click("#tab-samples")
    page.fill("#by-query", 'age > 40 and sex == "Female"')
    page.click("#panel-samples button:has-text('Search')")
    rows = int(table_app.state.chosen(query='age > 40 and sex == "Female"').size)
    page.wait_for_selector(f"#panel-samples >> text=of {rows} sample")
    page.click("text=Select on the map")
    page.wait_for_selector(f"text={rows} samples selected")
    well(shown, table_app)
    page.click("#tab-samples")
    page.fill("#by-query", "agee > 40")
    page.click("#panel-samples button:has-text('Search')")
    alert = page.locator("#panel-samples [role=alert]")
    alert.wait_for()
    assert "agee" in alert.inner_text()


def test_a_column_colours_the_map_and_its_legend_is_text(watch, table_app):
    shown = opened(watch, table_app)
    with shown.page.expect_response(lambda r: "/tiles/" in r.url and "colour=" in r.url) as tile:
        shown.page.select_option("#colour", HOSTILE)
    assert tile.value.ok
    assert MARKUP in shown.page.locator("#legend").inner_text()
    shown.screenshot("app-colours")
    well(shown, table_app)


def test_markup_in_ids_and_cells_is_text(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.on("dialog", lambda d: shown.wrong.append(d.message))
    position = next(i for i in range(120) if MARKUP in table_app.state.points.id(i))
    shown.page.evaluate(f"krepes.explain({position})")
    shown.page.wait_for_selector("#panel-explanation h2")
    assert MARKUP in shown.page.locator("#panel-explanation h2").inner_text()
    assert shown.page.locator("#panel-explanation img").count() == 0
    well(shown, table_app)


def test_a_link_restores_what_was_seen(watch, table_app):
    first = opened(watch, table_app)
    first.page.select_option("#colour", "sex")
    first.page.evaluate("krepes.explain(11)")
    first.page.wait_for_selector("#panel-explanation h2")
    first.page.evaluate("krepes.map.go({ x: 0, y: 0, z: 3 })")
    first.page.click("#link")
    second = opened(watch, table_app, first.page.url.partition("#")[2])
    assert second.page.locator("#colour").input_value() == "sex"
    assert second.page.evaluate("krepes.position") == 11
    one, other = (shown.page.locator("#panel-explanation h2").inner_text() for shown in (first, second))
    assert one == other
    well(second, table_app)


def test_a_link_opened_in_the_same_tab_is_followed(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.evaluate("location.hash = '#s=9&c=age'")
    shown.page.wait_for_selector("#panel-explanation h2")
    assert shown.page.locator("#panel-explanation h2").inner_text().startswith(table_app.state.points.id(9))
    assert shown.page.locator("#colour").input_value() == "age"
    well(shown, table_app)


def test_a_link_on_its_way_is_not_cut_short(watch, table_app):
    """Reloading while a link is followed shows all that the link says."""
    shown = opened(watch, table_app)
    held = []
    shown.page.route("**/api/explain/9*", lambda route: held.append(route))
    shown.page.evaluate("location.hash = '#v=3/0/0&c=age&s=9'")
    while not held:
        shown.page.wait_for_timeout(20)
    assert "s=9" in shown.page.evaluate("location.hash")
    held.pop().continue_()
    shown.page.wait_for_selector("#panel-explanation h2")
    address = shown.page.evaluate("location.hash")
    assert all(part in address for part in ("s=9", "c=age", "v=3%2F0"))
    well(shown, table_app)


def test_pictures_that_are_not_there_are_not_asked_for(watch, image_folder):
    served = Served(image_folder, live=False)
    served.state.live.state, served.state.live.reason = "unavailable", "the weights are gone"
    try:
        shown = opened(watch, served)
        shown.page.click("#tab-samples")
        shown.page.wait_for_selector("#panel-samples .gallery li")
        shown.page.wait_for_timeout(500)
        pictured = len(set(served.state.run.pictures))
        assert 0 < shown.page.locator("#panel-samples img").count() <= pictured < 60
        well(shown, served)
    finally:
        served.stop()


def test_ones_own_image_is_explained(watch, image_app, tmp_path):
    Image.new("RGB", (30, 20), (200, 30, 90)).save(tmp_path / "mine.png")
    shown = opened(watch, image_app)
    shown.page.click("#tab-upload")
    shown.page.set_input_files("#own-file", tmp_path / "mine.png")
    shown.page.click("text=Explain it")
    shown.page.wait_for_selector("text=Your sample")
    assert shown.page.get_by_text("Nearest samples in representation space").is_visible()
    shown.screenshot("app-upload")
    well(shown, image_app)
    (tmp_path / "none.png").write_bytes(b"no picture")
    shown.page.click("#tab-upload")
    shown.page.set_input_files("#own-file", tmp_path / "none.png")
    shown.page.click("text=Explain it")
    alert = shown.page.locator("#panel-upload [role=alert]")
    alert.wait_for()
    assert "image" in alert.inner_text()


def test_ones_own_row_is_explained(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.click("#tab-upload")
    row = json.loads(shown.page.locator("#own-row").input_value())
    shown.page.fill("#own-row", json.dumps(row | {"age": 51}))
    shown.page.click("text=Explain it")
    shown.page.wait_for_selector("#panel-explanation h2:has-text('Your sample')")
    assert shown.page.locator("#panel-explanation tr.self").inner_text().count("51")
    well(shown, table_app)


def test_two_runs_stand_side_by_side(watch, table_app):
    shown = opened(watch, table_app)
    shown.page.click("#tab-compare")
    shown.page.wait_for_selector("text=Landmarks: 24 in both")
    shown.screenshot("app-compare")
    well(shown, table_app)


def test_what_is_seen_is_saved_as_a_picture(watch, table_app, tmp_path):
    shown = opened(watch, table_app)
    with shown.page.expect_download() as saved:
        shown.page.click("#png")
    saved.value.save_as(tmp_path / "map.png")
    x, y = point(shown.page, table_app, table_app.state.landmarks.rows[0]["position"])
    box = shown.page.locator("#map").bounding_box()
    with Image.open(tmp_path / "map.png") as image:
        assert image.width == pytest.approx(2 * box["width"], abs=2)
        at = round(2 * (x - box["x"])), round(2 * (y - box["y"]))
        found = image.convert("RGB").getpixel(at)
    blue, orange = (0x2F, 0x6F, 0xDE), (0xC2, 0x41, 0x0C)  # a landmark lies over the map
    assert min(max(abs(a - b) for a, b in zip(found, c, strict=True)) for c in (blue, orange)) < 60


def test_an_explanation_is_reached_by_keyboard_alone(watch, table_app):
    shown = opened(watch, table_app)
    page = shown.page
    page.locator("#tab-explanation").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#panel-samples tbody tr")
    assert page.evaluate("document.activeElement.id") == "tab-samples"
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "name":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-explanation h2")
    page.wait_for_selector("#said:has-text('attracting')")
    assert page.evaluate("document.activeElement.tagName") == "H2"
    well(shown, table_app)


@pytest.mark.parametrize("options", [{}, {"dark": True}, {"size": "phone"}], ids=["light", "dark", "phone"])
def test_the_app_can_be_used_by_everybody(watch, image_app, options):
    shown = opened(watch, image_app, **options)
    shown.page.evaluate("krepes.explain(3)")
    shown.page.wait_for_selector("#panel-explanation h2")
    shown.page.wait_for_timeout(300)
    assert shown.fits()
    assert shown.violations() == []
    name = "-".join(map(str, options.values())) or "light"
    shown.screenshot(f"app-{name}", whole="size" in options)
    shown.page.click("#tab-samples")
    shown.page.wait_for_selector("#panel-samples .gallery li")
    assert shown.violations() == []
    shown.page.click("#trust")
    assert shown.page.locator("#trust-dialog").is_visible()
    assert shown.violations() == []
    shown.screenshot(f"app-trust-{name}")
    well(shown, image_app)


def test_a_run_without_a_model_shows_the_rest(watch, tmp_path):
    folder = tables_alone(tmp_path / "alone")
    (folder / "landmarks.parquet").write_bytes(b"nothing")
    served = Served(folder)
    try:
        shown = opened(watch, served)
        assert "landmarks.parquet is damaged" in shown.page.locator("#problems").inner_text()
        assert "stored results only" in shown.page.locator("#live").inner_text()
        assert shown.page.locator("#why").is_visible()
        shown.page.evaluate("krepes.explain(4321)")
        shown.page.wait_for_selector("#panel-explanation h2")
        assert shown.page.get_by_text("stored landmarks alone").is_visible()
        shown.screenshot("app-damaged")
        well(shown, served)
    finally:
        served.stop()


def test_redacted_columns_and_pictures_are_nowhere(watch, table_folder, tmp_path):
    from tests.app.runs import write_manifest

    run = shutil.copytree(table_folder, tmp_path / "run")
    write_manifest(run, redact=["secret"], thumbnails=False)
    served = Served(run)
    try:
        shown = opened(watch, served)
        shown.page.evaluate("krepes.explain(5)")
        shown.page.wait_for_selector("#panel-explanation h2")
        for tab in ("samples", "upload"):
            shown.page.click(f"#tab-{tab}")
        shown.page.wait_for_selector("#panel-samples tbody tr", state="attached")
        content = shown.page.content() + shown.page.locator("#own-row").input_value()
        assert "hush-" not in content
        assert "secret" not in content
    finally:
        served.stop()


def test_without_the_token_nothing_is_shown(watch, table_app):
    shown = watch()
    shown.page.goto(table_app.address)
    assert "start link" in shown.page.content()
    assert "row 1" not in shown.page.content()


def test_the_report_opens_beside_the_app_in_an_origin_of_its_own(watch, table_app):
    shown = opened(watch, table_app)
    with shown.context.expect_page() as popup:
        shown.page.click("#report")
    popup.value.wait_for_load_state()
    assert popup.value.get_by_role("heading", name="Key findings").is_visible()
    assert popup.value.evaluate("self.origin") == "null"
