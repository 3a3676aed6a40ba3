"""``cxrfind query --explain`` over a real Catalogue, index and the shipped model."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from daemon.cli import cli
from daemon.explaining import _in_words, findings_of
from daemon.finder.similarity import Match
from encoders.base import FINDING_NAMES, Basis
from encoders.phantom import draw
from encoders.registry import load_encoder
from storage.base import InstanceRecord, InstanceState, ReportRecord, StudyRecord
from storage.catalogue import open_catalogue
from storage.renditions import Renditions


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the environment of a site with three drawn studies."""
    folder = tmp_path_factory.mktemp("site")
    encoder = load_encoder(threads=1)
    catalogue = open_catalogue(folder / "catalogue.db")
    generation = catalogue.generation(encoder.fingerprint, encoder.model_id, encoder.dim)
    pictures = [draw(seed, 128)[0] for seed in (3, 8, 11)]
    keys = Renditions(folder / "renditions").put_many(pictures)
    for number, (key, vector) in enumerate(zip(keys, encoder.encode_images(pictures).embeddings, strict=True), 1):
        study = f"1.2.{number}"
        attributes = {"0020000D": {"vr": "UI", "Value": [study]}, "00100020": {"vr": "LO", "Value": [f"P{number}"]}}
        record = InstanceRecord(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1", sop_instance_uid=f"{study}.1",
            series_instance_uid=f"{study}.0", study_instance_uid=study, transfer_syntax_uid="1.2.840.10008.1.2",
            digest=str(number), size_bytes=1, calling_ae_title="PACS", received_at=datetime(2026, 1, 1, tzinfo=UTC),
            attributes=attributes, state=InstanceState.INDEXED, view="frontal", embedding=vector, rendition=key,
        )  # fmt: skip
        catalogue.commit([record], generation.generation_id, encoder.fuse)
    catalogue.close()
    return {"CXRFIND_STORAGE__DIRECTORY": str(folder), "CXRFIND_ENCODER__THREADS": "1"}


def query(site, *arguments):
    return CliRunner().invoke(cli, ["query", *arguments], env=site, catch_exceptions=False)


def test_example_and_best_match_are_written_side_by_side_in_colour(site, tmp_path):
    path = tmp_path / "why.png"
    result = query(site, "--study", "1.2.1", "--explain", str(path))
    assert result.exit_code == 0, result.output
    assert "findings of both" in result.output
    picture = Image.open(path).convert("RGB")
    assert picture.width > 1.6 * picture.height
    for left in (0, picture.width // 2):
        red, _, blue = picture.crop((left, 0, left + picture.width // 2, picture.height)).split()
        assert max(r - b for r, b in zip(red.get_flattened_data(), blue.get_flattened_data(), strict=True)) > 60


def test_a_text_has_no_regions_to_explain_and_is_refused_before_the_search(site, tmp_path):
    result = query(site, "--text", "effusion", "--explain", str(tmp_path / "why.png"))
    assert result.exit_code == 2
    assert "give --study or --file" in result.output
    assert "score" not in result.output


def test_a_study_has_what_its_report_says_and_only_without_one_what_the_model_sees():
    seen = np.full(14, 0.05, np.float32)
    seen[[FINDING_NAMES.index("Edema"), FINDING_NAMES.index("No Finding")]] = 0.9
    study = StudyRecord("1.2", "P", {}, {}, ("Atelectasis", "No Finding"), None, "PACS")
    assert findings_of(None, seen) == findings_of(study, seen) == {"Edema": "by the model, 0.90"}
    reported = replace(study, report=ReportRecord(findings="Atelectasis.", impression=""))
    assert findings_of(reported, seen) == {"Atelectasis": "by report"}


def test_the_words_say_by_what_the_match_was_ranked_and_who_found_what():
    match = Match(1, "1.2", 0.8, 0.93, Basis.JOINT, "", None)
    ranked, shared, threshold = _in_words(
        match, 0.71, {"Edema": "by the model, 0.56", "Fracture": "by report"}, {"Edema": "by report"}
    )
    assert "#1, score 0.80, ranked by JOINT with cosine 0.930; the pictures show only" in ranked
    assert shared == "images' cosine 0.710; findings of both: Edema (example by the model, 0.56; match by report)"
    assert "at least 0.20" in threshold
    alone = _in_words(match._replace(basis=Basis.IMAGE), 0.71, {"Edema": "by report"}, {"Fracture": "by report"})
    assert len(alone) == 2
    assert alone[0].endswith("cosine 0.930")
    assert alone[1].endswith("findings of both: none")
