"""The report as a browser shows it: from disk, without the network, on every screen."""

import json
import shutil

import pytest

from krepes.run import write_report
from krepes.stored import StoredRun


@pytest.fixture(params=["table", "image"])
def folder(request, table_folder, image_folder):
    return {"table": table_folder, "image": image_folder}[request.param]


def test_it_opens_from_disk_and_asks_for_nothing(watch, folder):
    shown = watch()
    address = (folder / "report.html").as_uri()
    shown.page.goto(address)
    assert shown.page.locator("h1").is_visible()
    assert shown.requests == [address]
    assert shown.wrong == []
    assert shown.page.get_by_role("heading", name="Can this explanation be trusted?").is_visible()
    shown.screenshot(f"report-{folder.parent.name}-light", whole=True)


@pytest.mark.parametrize("options", [{}, {"dark": True}, {"size": "phone"}], ids=["light", "dark", "phone"])
def test_it_can_be_read_by_everybody(watch, folder, options):
    shown = watch(**options)
    shown.page.goto((folder / "report.html").as_uri())
    for details in shown.page.locator("details").all():
        details.evaluate("d => { d.open = true; }")
    assert shown.fits()
    assert shown.violations() == []
    shown.screenshot(f"report-{folder.parent.name}-{'-'.join(map(str, options.values())) or 'open'}", whole=True)


def test_the_key_figures_need_no_script(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    for text in ("Can this explanation be trusted?", "gain ratio", "Key findings", "total contribution"):
        assert page.get_by_text(text).first.is_visible()
    context.close()


def test_the_maps_landmarks_tell_what_they_are_and_lead_to_their_row(watch, image_folder):
    shown = watch()
    shown.page.goto((image_folder / "report.html").as_uri())
    mark = shown.page.locator("#map-chart a").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    tip = shown.page.locator("#tip")
    assert tip.is_visible()
    assert "rank" in tip.inner_text()
    shown.screenshot("report-tooltip")
    target = mark.get_attribute("href") or mark.get_attribute("xlink:href")
    mark.click(force=True)
    assert shown.page.locator(target).is_visible()
    assert shown.wrong == []


def test_it_prints_with_all_its_tables(browser, watch, folder):
    """Also without scripts; after printing the page is as it was."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "report.html").as_uri())
    last = page.locator("#every tbody tr").last
    assert not last.is_visible()
    page.emulate_media(media="print")
    assert last.is_visible()
    assert page.locator("#reproduce tbody tr").last.is_visible()
    context.close()
    shown = watch()
    shown.page.goto((folder / "report.html").as_uri())
    few = len(shown.page.pdf())
    shown.page.evaluate("document.querySelectorAll('details').forEach((d) => d.remove())")
    assert len(shown.page.pdf()) < few
    shown.page.reload()
    shown.page.pdf()
    assert not shown.page.locator("#every tbody tr").last.is_visible()


def test_markup_in_names_is_text(watch, table_folder):
    shown = watch()
    shown.page.on("dialog", lambda d: shown.wrong.append(d.message))
    shown.page.goto((table_folder / "report.html").as_uri())
    shown.page.wait_for_timeout(200)
    assert shown.wrong == []
    assert shown.page.get_by_text("onerror=alert(1)").first.is_visible()


def test_a_damaged_run_says_what_is_missing(watch, table_folder, tmp_path):
    run = shutil.copytree(table_folder, tmp_path / "run")
    (run / "explained.parquet").write_bytes(b"PAR1 is not enough")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "failed", "stage": "report"}))
    path = write_report(StoredRun.open(run), tmp_path / "report.html")
    shown = watch()
    shown.page.goto(path.as_uri())
    note = shown.page.get_by_role("note").filter(has_text="Not all of this run can be shown")
    assert note.is_visible()
    assert "explained.parquet is damaged" in note.inner_text()
    assert shown.page.get_by_role("heading", name="Landmarks with the most influence").is_visible()
