"""The report is made of the run folder alone, keeps out what must stay out, and says what is missing."""

import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

import krepes
from krepes.data import ArraySource, GaussianNoise
from krepes.encoders import MLP
from krepes.errors import ConfigError, RunFolderError
from krepes.report.card import build_card
from krepes.report.page import build_page
from krepes.run import run_audit, write_report
from krepes.shown import BUDGET, Pictures
from krepes.stored import StoredRun

TABLE = pd.DataFrame(
    {"<i>age</i>": np.arange(60) % 7, "town": [f"<b>t{i % 3}</b>" for i in range(60)], "secret": ["s3cr3t"] * 60}
)
QUERY = '`town` == "<b>t1</b>"'
PLAN = krepes.AuditPlan({"<tt>": QUERY}, refits=2, automatic_concepts=False, counterfactuals={"old & <grey>": QUERY})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An audit of images with a table."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("page") / "run"
    source = ArraySource(torch.rand(60, 1, 6, 6), ids=[f"<u>{i}" for i in range(60)], metadata=TABLE)
    network = torch.nn.Sequential(torch.nn.Flatten(), MLP(36, [8], 4)).eval()
    auditor = krepes.Auditor(
        network, "vicreg", landmarks=12, newton=krepes.Newton(damping=1.0), trust=krepes.Trust(refits=False)
    )
    run_audit(
        auditor, source, GaussianNoise(0.1), folder, {"title": "x"}, Console(quiet=True), title="An <em>audit</em>",
        command="krepes audit c.yaml", plan=PLAN, explain=3,
    )  # fmt: skip
    return folder, auditor


@pytest.fixture
def run(runs, tmp_path):
    """A copy whose files may be written anew: their names stand in its manifest, and no checksums."""
    copy = shutil.copytree(runs[0], tmp_path / "run")
    manifest = json.loads((copy / "manifest.json").read_text())
    changes = {key: dict.fromkeys(manifest[key]) for key in ("outputs", "sha256")}
    (copy / "manifest.json").write_text(json.dumps(manifest | changes))
    return copy


def page(folder, **options) -> str:
    return build_page(StoredRun.open(folder), **options)


def test_the_report_is_a_function_of_the_folder(runs):
    assert page(runs[0]) == (runs[0] / "report.html").read_text()


def test_contributions_and_rest_add_up_to_the_total(runs):
    shown = re.findall(r'<p class="sum">(.*?)</p>', page(runs[0]))
    assert len(shown) == 3
    for line in shown:
        *parts, total = (float(v.replace("−", "-").lstrip("= ")) for v in re.findall(r"<b>(.*?)</b>", line))
        assert total == pytest.approx(sum(parts), abs=2e-3)
    folder, auditor = runs
    table = pd.read_parquet(folder / "explained.parquet")
    sums = table.groupby("position")["contribution"].sum()
    x = auditor.source_.batch(sums.index.tolist())
    np.testing.assert_allclose(sums, auditor.contribution(x).sum(1), rtol=1e-9)


def test_nothing_of_the_data_is_markup(runs):
    found = page(runs[0])
    for name in ("<em>", "<i>age", "<b>t", "<u>", "<grey>", "<tt>"):
        assert name not in found
        assert html.escape(name) in found


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(runs):
    found = page(runs[0])
    assert not re.search(r"""(src|href)=["'](?!#|data:image/)""", found)
    assert not re.search(r" style=| on[a-z]+=", found)
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]+)"', found)[0])
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_each_picture_stands_in_the_page_once(runs):
    found = page(runs[0])
    pictures = re.findall(r'<image [^>]*href="(data:[^"]+)"', found)
    assert len(pictures) == len(re.findall("<symbol", found))
    assert len(re.findall("<use href", found)) > len(pictures)
    said = f"This file holds pictures of {len(pictures)} samples and, with their views, of 6 first samples."
    assert said in found


def test_pictures_and_columns_are_kept_out(runs):
    found = page(runs[0], thumbnails=False, redact=["secret", "town"])
    assert "data:image" not in re.sub(r'xlink:href="data:image/png[^"]*"', "", found)
    assert "<symbol" not in found
    assert "s3cr3t" not in found
    assert "t1&lt;" not in found
    assert "No picture of a sample is in this file." in found
    assert "Left out everywhere: secret, town." in found or "Left out everywhere: town, secret." in found
    assert "s3cr3t" in page(runs[0])


def test_an_audit_keeps_out_what_it_is_told_to(runs, tmp_path):
    auditor = runs[1]
    path = auditor.report(tmp_path / "r.html", findings=krepes.Findings(), thumbnails=False, redact=["secret"])
    found = path.read_text()
    assert "s3cr3t" not in found
    assert "<symbol" not in found
    with pytest.raises(ConfigError, match="nobody"):
        auditor.report(tmp_path / "r.html", findings=krepes.Findings(), redact=["nobody"])


def test_as_many_samples_are_said_to_be_disclosed_as_have_raw_values_in_the_file(runs):
    """The explained ones, shown landmarks, attributed samples and those of the views."""
    folder = runs[0]
    found = html.unescape(page(folder))
    ids = set(re.findall(r'<th scope="row">(?:[+−▲▼] )?(<u>\d+)</th><td', found))
    ids |= set(re.findall(r'<tr class="self"><th scope="row">(<u>\d+)</th>', found))
    ids |= set(pd.read_parquet(folder / "landmarks.parquet")["landmark"].head(24))
    told = int(re.findall(r"raw values of (\d+) samples", found)[0])
    assert told == len(ids)


def test_a_redacted_column_may_be_named_as_the_runs_own_are(runs, tmp_path):
    auditor = runs[1]
    torch.manual_seed(0)
    table = pd.DataFrame({"data.race": ["s3cr3t"] * 60, "other": range(60)})
    source = ArraySource(auditor.source_.batch(range(60)), metadata=table)
    other = krepes.Auditor(auditor.encoder.module, "vicreg", landmarks=12, newton=krepes.Newton(damping=1.0),
                           trust=krepes.Trust(refits=False)).fit(source, GaussianNoise(0.1))  # fmt: skip
    shown = other.report(tmp_path / "r.html", findings=krepes.Findings()).read_text()
    assert "s3cr3t" in shown
    hidden = other.report(tmp_path / "r.html", findings=krepes.Findings(), redact=["data.race"]).read_text()
    assert "s3cr3t" not in hidden


@pytest.mark.parametrize("change", [
    {"redact": None, "config": {"report": {"redact": ["secret"]}}}, {"redact": "secret"}, {"redact": [["secret"]]},
    {"redact": ["secret"], "config": {"report": {"redact": 3}}},
], ids=str)  # fmt: skip
def test_what_the_configuration_hides_is_hidden_before_the_run_is_complete(run, change):
    manifest = json.loads((run / "manifest.json").read_text()) | change
    (run / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    assert "s3cr3t" not in page(run)
    assert "s3cr3t" not in build_card(StoredRun.open(run))


@pytest.mark.parametrize("change", [
    {"thumbnails": "false"}, {"thumbnails": True, "config": {"report": {"thumbnails": False}}}, {"thumbnails": 0},
], ids=str)  # fmt: skip
def test_pictures_stay_out_unless_it_is_said_that_they_may_be_shown(run, change):
    manifest = json.loads((run / "manifest.json").read_text()) | change
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "<symbol" not in page(run)


def test_the_samples_of_a_counterfactual_keep_their_rows(runs, tmp_path):
    """With the landmarks kept, training samples and audited samples are counted otherwise."""
    auditor = runs[1]
    mark = auditor.landmark_ids_[3]
    source = ArraySource(auditor.source_.batch(range(60)), ids=[f"row-{i}" for i in range(60)],
                         metadata=pd.DataFrame({"tag": [f"tag-{i}" for i in range(60)]}))  # fmt: skip
    fitted = krepes.Auditor(auditor.encoder.module, "vicreg", landmarks=12, newton=krepes.Newton(damping=1.0),
                            trust=krepes.Trust(refits=False)).fit(source, GaussianNoise(0.1))  # fmt: skip
    mark = fitted.landmark_ids_[3]
    other = fitted.counterfactual([mark], keep_landmarks=True)
    plan = krepes.AuditPlan(refits=0, automatic_concepts=False, features=())
    found = other.report(tmp_path / "r.html", findings=other.findings(plan)).read_text()
    pairs = re.findall(r'<th scope="row">(?:[+−▲▼] )?row-(\d+)</th><td[^>]*>(?:= )?tag-(\d+)</td>', found)
    assert len(pairs) > 20
    assert all(a == b for a, b in pairs)


HOSTILE = (' style="<meta a=\':1"', "' http-equiv=refresh x='", "'content='0;url=http:x.yz'", "<textarea>", 'id="a"')


def test_names_in_charts_stay_text(run):
    """Quotes in a chart's texts once became tags, and a meta element leaves the page whatever its policy says."""
    rows = [(name, 0.2, 0.1, 0.3, 0.01, 0.01, 50, "", -0.1, 0.1, "numeric", 0.5, 0.4, 0) for name in HOSTILE]
    columns = [
        "column", "gap", "low", "high", "p", "q", "n", "explained_by", "null_low", "null_high", "kind", "agreement",
        "random", "missing",
    ]  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_parquet(run / "feature_gap.parquet")
    found = page(run)

    class Tags(HTMLParser):
        seen: set = set()  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.seen.add((tag, "refresh" in str(attrs)))

    parser = Tags()
    parser.feed(found)
    assert ("textarea", False) not in parser.seen
    assert not any(refresh for _, refresh in parser.seen)
    chart = found[found.index('id="gaps"') :]
    svg = ElementTree.fromstring(re.findall(r"<svg role.*?</svg>|<svg [^>]*role.*?</svg>", chart, re.DOTALL)[0])
    texts = {"".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {name[:28] for name in HOSTILE} <= texts


@pytest.mark.parametrize(("name", "change"), [
    ("feature_gap.parquet", {"missing": None}), ("feature_gap.parquet", {"explained_by": None}),
    ("group_gap.parquet", {"small": None}), ("group_gap.parquet", {"landmarks": None}),
    ("concepts.parquet", {"accuracy": None}), ("concepts.parquet", {"stability": None}),
    ("path.parquet", {"loss": "text"}), ("counterfactuals.parquet", {"random": "text"}),
    ("landmarks.parquet", {"norm": "text"}), ("landmarks.parquet", {"rank": "text"}),
    ("landmarks.parquet", {"mean_influence": "text"}), ("explained.parquet", {"contribution": "text"}),
    ("attribution.parquet", {"score": "text"}),
], ids=str)  # fmt: skip
def test_columns_of_another_version_leave_the_rest_of_the_page(run, name, change):
    table = pd.read_parquet(run / name)
    for column, value in change.items():
        table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    table.to_parquet(run / name)
    found = page(run)
    assert "Can this explanation be trusted?" in found
    assert "Method and limits" in found
    build_card(StoredRun.open(run))


@pytest.mark.parametrize("content", ["{}", '{"kind": "image"}', '{"kind": "table", "columns": 3, "rows": []}'])
def test_views_of_another_version_leave_the_rest_of_the_page(run, content):
    (run / "views.json").write_text(content)
    assert "Method and limits" in page(run)


def test_a_title_that_no_file_of_text_can_hold_is_written(run, tmp_path):
    manifest = json.loads((run / "manifest.json").read_text()) | {"title": "a \ud800 b", "notes": ["\udfff"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "a ? b" in write_report(StoredRun.open(run), tmp_path / "r.html").read_text()


@pytest.mark.parametrize("n", [50, 6000])
def test_samples_without_a_place_take_nobody_elses(run, n):
    xy = np.random.default_rng(0).normal(size=(n, 2))
    xy[3], xy[4] = np.nan, np.inf
    pd.DataFrame({"id": [str(i) for i in range(n)], "x": xy[:, 0], "y": xy[:, 1], "is_landmark": False}).to_parquet(
        run / "points.parquet"
    )
    found = page(run)
    assert "2 samples have no place in it" in found
    assert f"{n - 2:,} samples" in found


def test_landmarks_that_are_none_of_the_samples_are_not_drawn(run):
    table = pd.read_parquet(run / "landmarks.parquet")
    table["position"] = [-1, 10_000, *table["position"][2:]]
    table.to_parquet(run / "landmarks.parquet")
    found = page(run)
    assert "2 landmarks are none of the samples on the map" in found
    assert len(re.findall('href="#landmark-', found)) == len(table) - 2


def test_links_out_of_the_folder_are_not_followed(run, tmp_path):
    (tmp_path / "elsewhere.json").write_text((run / "trust.json").read_text())
    (run / "trust.json").unlink()
    (run / "trust.json").symlink_to(tmp_path / "elsewhere.json")
    found = page(run)
    assert "trust.json is a link to another place" in found
    assert "NOT KNOWN" in found


def test_huge_pictures_are_never_decoded(run):
    buffer = io.BytesIO()
    Image.new("1", (4096, 4096)).save(buffer, "PNG")
    table = pd.read_parquet(run / "pictures.parquet")
    table["picture"] = [buffer.getvalue(), *table["picture"][1:]]
    table.to_parquet(run / "pictures.parquet")
    assert "1 of" in page(run)
    assert len(StoredRun.open(run).pictures) == len(table) - 1


def test_the_card_is_markdown_beside_a_random_one(runs):
    table = pd.read_parquet(runs[0] / "counterfactuals.parquet")
    assert table["removed"].eq(20).all()
    assert {"shift", "neighbours that stay"} < set(table["figure"])
    assert table["figure"].str.startswith("sample ").sum() == 3
    removed = table.loc[table["figure"].str.endswith("(removed)"), "figure"].str.extract(r"<u>(\d+)")[0].astype(int)
    assert (removed % 3 == 1).all()
    auditor = runs[1]
    after = auditor.counterfactual(QUERY, keep_landmarks=True)
    position = int(pd.read_parquet(runs[0] / "explained.parquet")["position"][0])
    moved = krepes.movement(auditor, after, auditor.source_.batch([position]))
    row = table[table["figure"].str.startswith("sample ")].iloc[0]
    assert row["value"] == pytest.approx(moved.samples["shift"][0], rel=1e-6)
    assert "What would move without" in page(runs[0])


@pytest.mark.parametrize("name", [
    "manifest.json", "trust.json", "landmarks.parquet", "points.parquet", "explained.parquet", "model.safetensors",
    "concepts.parquet", "views.json", "pictures.parquet", "attribution.parquet",
])  # fmt: skip
@pytest.mark.parametrize("how", ["gone", "cut", "empty", "other"])
def test_what_is_missing_is_said_and_the_rest_is_shown(run, name, how):
    path = run / name
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other": b"<script>x</script>" * 9}[how])
    found = page(run)
    assert "Not all of this run can be shown" in found
    assert name in found or name == "manifest.json"
    assert "<script>x" not in found
    assert "Method and limits" in found
    assert ("An &lt;em&gt;audit" in found) == (name != "manifest.json")


def test_a_table_of_another_version_is_not_guessed_at(run):
    table = pd.read_parquet(run / "landmarks.parquet").rename(columns={"mean_influence": "influence_mean"})
    table.to_parquet(run / "landmarks.parquet")
    found = page(run)
    assert "landmarks.parquet lacks mean_influence" in found
    assert "Why is this sample here?" in found


@pytest.mark.parametrize("change", [
    {"settings": 5}, {"outcome": []}, {"outcome": {"loss_before": "x", "loss_after": None, "trials": [3]}},
    {"created": "yesterday"}, {"landmark_ids": 7}, {"notes": {"a": 1}}, {"redact": "secret"}, {"samples": "many"},
    {"account": 3}, {"source": "x"}, {"format": 99}, {"versions": [1]}, {"config": {"title": ["x"]}, "title": None},
], ids=str)  # fmt: skip
def test_a_manifest_that_makes_no_sense_stops_nothing(run, change):
    manifest = json.loads((run / "manifest.json").read_text()) | change
    (run / "manifest.json").write_text(json.dumps(manifest))
    found = page(run)
    assert "Why is this sample here?" in found
    assert "Method and limits" in found


def test_a_verdict_of_ones_own_making_is_no_verdict(run):
    trust = json.loads((run / "trust.json").read_text())
    trust["verdict"] = 'green" onload="x'
    (run / "trust.json").write_text(json.dumps(trust))
    assert "NOT KNOWN" in page(run)


def test_a_half_written_run_says_how_far_it_got(run):
    manifest = json.loads((run / "manifest.json").read_text())
    for name in ("explained.parquet", "trust.json", "report.html"):
        (run / name).unlink()
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted", "stage": "findings"}))
    found = html.unescape(page(run))
    assert "its status is 'interrupted', its stage 'findings'" in found


def test_a_folder_of_another_kind_is_no_run(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RunFolderError, match="run folder"):
            StoredRun.open(place)


def test_pictures_that_are_none_never_reach_the_page(run):
    table = pd.read_parquet(run / "pictures.parquet")
    hostile = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    table["picture"] = [hostile, *table["picture"][1:]]
    table.to_parquet(run / "pictures.parquet")
    found = page(run)
    assert "1 of" in found
    assert "onload" not in found


def test_the_report_is_written_elsewhere(run, tmp_path):
    stored = StoredRun.open(run)
    path = write_report(stored, tmp_path / "elsewhere.html", redact=["secret"])
    assert "s3cr3t" not in path.read_text()
    assert stored.problems == {}


def test_the_card_is_markdown_without_markup_of_the_data(run):
    card = (run / "card.md").read_text()
    assert card.startswith("## Audit of the representation")
    assert "&lt;em&gt;audit" in card
    assert not re.search("<em>|<i>|<b>t|<u>", card)
    assert "old & " not in card
    trust = json.loads((run / "trust.json").read_text())
    assert card.count("\n| ") == 1 + len(trust["figures"])
    (run / "trust.json").unlink()
    assert "Not known" in build_card(StoredRun.open(run))
    assert "trust.json is missing" in build_card(StoredRun.open(run)).replace("\\", "")


def test_points_open_in_embedding_atlas_as_they_are(runs):
    """Columns x, y, and neighbors as its command line takes them: {ids: rows of the table, distances}."""
    points = pd.read_parquet(runs[0] / "points.parquet")
    assert points[["x", "y"]].notna().all(axis=None)
    for names, near in zip(points["landmarks"], points["neighbors"], strict=True):
        assert points["id"].iloc[near["ids"]].tolist() == list(names)
        assert near["distances"][0] == 0
        assert (np.diff(near["distances"]) >= 0).all()


def test_a_complete_run_is_a_flat_folder_of_ordinary_files(runs):
    """As trackers of experiments upload it."""
    for path in runs[0].iterdir():
        assert path.is_file()
        assert not path.is_symlink()
        assert re.fullmatch(r"[a-z_]+\.(parquet|json|html|md|safetensors)", path.name)
        assert path.stat().st_size > 0


def test_a_thousand_landmarks_stay_below_ten_megabytes(run):
    """Pictures of noise, which compress worst, as many as a run keeps."""
    generator, m = np.random.default_rng(0), 1000
    draw = Pictures((0.0,), (1.0,), 0.0, 1.0)
    ids = [f"sample-{i}" for i in range(m)]
    pictures, spent = {}, 0
    for name in ids:
        if spent > BUDGET:
            break
        pictures[name] = draw.encode(generator.random((3, 224, 224)))
        spent += len(pictures[name])
    assert len(pictures) > 500
    pd.DataFrame({"id": list(pictures), "picture": list(pictures.values())}).to_parquet(run / "pictures.parquet")
    ranks = np.arange(1, m + 1)
    pd.DataFrame({"rank": ranks, "landmark": ids, "position": ranks - 1, "norm": 1 / ranks, "mean_influence": 1 / ranks,
                  "sign_balance": 0.5}).to_parquet(run / "landmarks.parquet")  # fmt: skip
    xy = generator.normal(size=(20_000, 2))
    pd.DataFrame({"id": range(20_000), "x": xy[:, 0], "y": xy[:, 1], "is_landmark": False}).to_parquet(
        run / "points.parquet"
    )
    found = page(run)
    assert len(found.encode()) < 10e6
    assert len(re.findall("<symbol", found)) == len(pictures)
    assert len(re.findall('<tr id="landmark-', found)) == m
