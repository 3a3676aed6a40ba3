"""The objects: every transfer syntax shows the same picture, headers are valid, the same seed gives the same bytes."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import get_frame

from encoders.phantom import SYNTAXES, UnknownTransferSyntax, UnusableFormat, simulate, write_studies, write_study
from encoders.readers import TRANSFER_SYNTAXES, read_instance

SIZE = (160, 128)


def first(seed=5):
    return next(simulate(1, seed))


def digests(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def uids(paths):
    return {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    one = write_studies(tmp_path / "a", 17, 3, size=SIZE)
    two = write_studies(tmp_path / "b", 17, 3, size=SIZE)
    assert [path.relative_to(tmp_path / "a") for path in one] == [path.relative_to(tmp_path / "b") for path in two]
    assert digests(one) == digests(two)
    other = write_studies(tmp_path / "c", 3, 4, size=SIZE)
    assert uids(one).isdisjoint(uids(other))


def test_a_study_is_the_same_however_many_are_asked_for():
    assert list(simulate(12, 8))[:5] == list(simulate(5, 8))


@pytest.mark.parametrize("name", sorted(SYNTAXES))
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_every_transfer_syntax_shows_the_picture_that_was_drawn(tmp_path, name, bits, photometric):
    study = first()
    path, *_ = write_study(study, tmp_path, transfer_syntax=name, size=SIZE, bits=bits, photometric=photometric)
    ds = dcmread(path, stop_before_pixels=True)
    assert ds.file_meta.TransferSyntaxUID == SYNTAXES[name].uid
    assert ds.PhotometricInterpretation == photometric
    shown = read_instance(path, min(SIZE)).content.pixels
    drawn = study.pixels("frontal", *SIZE)
    assert shown.shape == drawn.shape
    assert np.abs(shown - drawn).mean() < 0.01 + SYNTAXES[name].tolerance / 4


def coded_depth(frame):
    """Return the sample precision that a JPEG, JPEG-LS or JPEG 2000 codestream tells of itself."""
    if frame[:2] == b"\xff\x4f":
        return frame[frame.index(b"\xff\x51") + 40] + 1
    start = re.search(rb"\xff[\xc0\xc1\xc3\xf7]\x00\x0b", frame).start()
    return frame[start + 4]


@pytest.mark.parametrize("name", sorted(name for name, syntax in SYNTAXES.items() if syntax.compress and name != "rle"))
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_codestream_tells_the_same_depth_as_bits_stored(tmp_path, name, bits):
    path, *_ = write_study(first(), tmp_path, transfer_syntax=name, size=(64, 64), bits=bits, report=False)
    ds = dcmread(path)
    assert coded_depth(get_frame(ds.PixelData, 0, number_of_frames=1)) == ds.BitsStored


def test_every_transfer_syntax_that_the_listener_accepts_can_be_simulated():
    made = {str(syntax.uid) for syntax in SYNTAXES.values()}
    assert made == {row.uid for row in TRANSFER_SYNTAXES}


def test_mixed_takes_every_transfer_syntax_once_in_as_many_studies(tmp_path):
    paths = write_studies(tmp_path, len(SYNTAXES), 6, size=(64, 64), lateral_share=0, report=False)
    assert Counter(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID for path in paths) == Counter(
        syntax.uid for syntax in SYNTAXES.values())


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: apt install dicom3tools)")
def test_images_and_reports_satisfy_their_iod_modules(tmp_path):
    paths = write_studies(tmp_path, 12, 2, size=(64, 64), transfer_syntax="explicit")
    for path in paths:
        answer = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert [line for line in answer.stderr.splitlines() if line.startswith("Error")] == [], path.name


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="needs dsrdump (Debian: apt install dcmtk)")
def test_dcmtk_reads_every_report_as_a_document(tmp_path):
    for path in write_studies(tmp_path, 6, 2, size=(64, 64), lateral_share=1):
        if path.name.startswith("SR"):
            answer = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=False)
            assert answer.returncode == 0, answer.stderr
            assert "Impression" in answer.stdout


def test_nobody_takes_it_for_a_patient(tmp_path):
    for path in write_studies(tmp_path, 3, 1, size=(64, 64)):
        ds = dcmread(path, stop_before_pixels=True)
        assert str(ds.PatientName).startswith("Phantom^Synthetic ")
        assert ds.PatientID.startswith("SYNTHETIC-")
        assert ds.InstitutionName == "cxrfind simulator"
        assert ds.StudyInstanceUID.startswith("2.25.")
        if ds.Modality != "SR":
            assert ds.BurnedInAnnotation == "NO"
            assert ds.BodyPartExamined == "CHEST"


def test_a_report_refers_to_every_image_of_its_study_and_comes_back_in_its_own_words(tmp_path):
    for study in simulate(9, 5, lateral_share=0.6):
        *images, sr = write_study(study, tmp_path, size=(64, 64))
        report = read_instance(sr, 64).content
        assert set(report.referenced_sop_uids) == uids(images)
        assert set(report.referenced_study_uids) == {study.uid("study")}
        assert report.findings.split() == study.dictation.findings.split()
        assert report.impression.split() == study.dictation.impression.split()
        assert report.verified is not study.preliminary
        assert (report.state == "PRELIMINARY") is study.preliminary


def test_the_reader_takes_frontal_and_lateral_for_what_they_are(tmp_path):
    study = next(study for study in simulate(50, 5) if len(study.views) == 2)
    frontal, lateral, _ = write_study(study, tmp_path, size=SIZE)
    assert [read_instance(path, 64).content.view for path in (frontal, lateral)] == ["frontal", "lateral"]
    assert read_instance(frontal, 64).content.gate_reason is None


def test_half_of_the_studies_are_normal_and_some_patients_come_again():
    studies = list(simulate(600, 1))
    normal = sum(study.findings["No Finding"] for study in studies) / len(studies)
    assert 0.35 < normal < 0.65
    visits = Counter(study.patient for study in studies)
    assert 0.1 < sum(count > 1 for count in visits.values()) / len(visits) < 0.5
    assert all(count >= 3 for count in Counter(
        name for study in studies for name, value in study.findings.items() if value == 1.0).values())
    assert len({study.taken.year for study in studies}) >= 8
    assert {study.anatomy.sex for study in studies} == {"F", "M"}


def test_progress_is_told_after_every_study(tmp_path):
    told = []
    write_studies(tmp_path, 3, 1, size=(64, 64), progress=told.append)
    assert told == [1, 2, 3]


@pytest.mark.parametrize("asked", [{"bits": 9}, {"photometric": "RGB"}, {"size": (10, 10)}])
def test_a_format_that_cannot_be_made_is_refused_with_the_cure(tmp_path, asked):
    with pytest.raises(UnusableFormat, match="take"):
        write_study(first(), tmp_path, **asked)


def test_an_unknown_transfer_syntax_is_refused_with_the_names_of_the_known(tmp_path):
    with pytest.raises(UnknownTransferSyntax, match="jpeg-ls"):
        write_study(first(), tmp_path, transfer_syntax="gif")


def test_the_simulator_loads_no_torch():
    answer = subprocess.run([sys.executable, "-c", "import sys, encoders.phantom; sys.exit('torch' in sys.modules)"],
                            check=False)
    assert answer.returncode == 0
