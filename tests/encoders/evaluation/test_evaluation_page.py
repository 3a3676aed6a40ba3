"""The written evaluation: JSON that any reader takes, and a page that needs nothing else."""

import base64
import dataclasses
import io
import json
import re

import pytest
from PIL import Image

from encoders.evaluation import write_page
from encoders.evaluation.page import plain
from encoders.evaluation.plots import curves_by_k
from encoders.evaluation.sheets import contact_sheets


@pytest.fixture(scope="module")
def written(judged, tmp_path_factory):
    first = dataclasses.replace(
        judged, results={**judged.results, "pools": judged.results["pools"][:1]}, pools=judged.pools[:1]
    )
    return write_page(first, tmp_path_factory.mktemp("page"))


def _refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_the_results_are_strict_json_with_every_pool(written, judged):
    results = json.loads((written.parent / "results.json").read_text(encoding="utf-8"), parse_constant=_refuse)
    assert [pool["source"] for pool in results["pools"]] == ["big"]
    assert results["reference"] == "seeing"


def test_the_page_loads_nothing_from_elsewhere(written):
    page = written.read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in page
    assert "<script" not in page


def test_every_picture_of_the_page_is_one(written):
    page = written.read_text(encoding="utf-8")
    for kind, data in re.findall(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", page):
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.format.lower() == kind
        assert min(image.size) > 100


def test_the_page_names_every_system_and_source_and_shows_chance(written, judged):
    page = written.read_text(encoding="utf-8")
    for system in judged.results["systems"]:
        assert system["name"] in page
    assert "big, frontal" in page
    assert "chance" in page


def test_the_page_says_how_many_queries_there_are_and_what_each_form_means(written, judged):
    page = " ".join(re.sub(r"data:image/[^\"]*|<[^>]*>", " ", written.read_text(encoding="utf-8")).split())
    assert "Queries: 40 of the 40 abnormal images" in page
    assert "Queries: 60 of the 60 coded images" in page
    assert "divided by min(k, R)" in page
    assert judged.results["legend"]["map0@k"] in page


def test_the_page_compares_checkpoints_finding_by_finding_and_across_modalities(written, judged):
    page = written.read_text(encoding="utf-8")
    for name in ("seeing", "blind"):
        assert all(f"<th>{figure} {name}</th>" in page for figure in ("AUC", "AP", "P@10"))
    gain = judged.results["pools"][0]["cross_modal"]["blind"]["report_to_image"]["r@1"]["reference_minus_this"][0]
    table = page[page.index("Image to report, and back") :]
    assert f"{gain:+.3f}" in table
    assert table.count("chance") > 10


def test_any_number_of_systems_has_its_curve():
    many = {f"system {n}": {"ndcg": [n / 40] * 5} for n in range(40)}
    assert curves_by_k({"k": [1, 5, 10, 20, 50], **many}, "system 0", "ndcg").startswith("data:image/png")


def test_no_patient_or_study_is_named_on_the_page(written):
    text = re.sub(r"data:image/[^\"]*", "", written.read_text(encoding="utf-8"))
    assert not re.search(r"\bs\d+\b|\bp\d+\b|word\d+", text)


def test_without_sheets_the_page_shows_plots_only(judged, written, tmp_path):
    first = dataclasses.replace(
        judged, results={**judged.results, "pools": judged.results["pools"][:1]}, pools=judged.pools[:1]
    )
    with_sheets, page = (path.read_text("utf-8") for path in (written, write_page(first, tmp_path, sheets=False)))
    assert "its five best matches" in with_sheets
    assert "its five best matches" not in page
    assert page.count("data:image/") == with_sheets.count("data:image/") - with_sheets.count("its five best matches")
    assert "guard it" not in page


def test_names_are_escaped(judged, tmp_path):
    results = {**judged.results, "manifest": "<b>studies</b>.csv", "pools": []}
    page = write_page(dataclasses.replace(judged, results=results, pools=()), tmp_path).read_text(encoding="utf-8")
    assert "&lt;b&gt;studies" in page


def test_a_contact_sheet_is_sorted_by_what_the_first_matches_share(judged):
    kinds = [sheet.kind for sheet in contact_sheets(judged.pools[0])]
    assert kinds
    assert kinds == sorted(kinds, key=["hit", "near miss", "failure"].index)
    assert kinds.count("hit") == 3


def test_nan_becomes_null_and_floats_are_short():
    assert plain({"a": float("nan"), "b": (1 / 3, float("inf"))}) == {"a": None, "b": [0.33333, None]}
