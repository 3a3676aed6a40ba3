"""Every real file ends as something, with its reason; every chest radiograph is a picture of the right polarity."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from encoders.base import Radiograph, Report, UnreadableInstance
from encoders.readers import read_instance

READ_ALL = """
import json, sys
from pathlib import Path
from encoders.base import Radiograph, RejectionNote, Report, Unindexed, UnreadableInstance
from encoders.readers import read_instance
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    try:
        content = read_instance(path, 512).content
    except UnreadableInstance as error:
        outcome = ("unreadable", str(error))
    else:
        reason = getattr(content, "gate_reason", None) or getattr(content, "reason", None) or ""
        assert isinstance(content, (Radiograph, Report, RejectionNote, Unindexed))
        outcome = (type(content).__name__, reason)
    print(json.dumps([path.name, *outcome]), flush=True)
"""


def outcomes(folder) -> dict[str, tuple[str, str]]:
    """Return file name -> (outcome, reason), read by a process of its own: a crash names the file it died on."""
    paths = sorted(folder.iterdir())
    done = subprocess.run([sys.executable, "-c", READ_ALL], input="".join(f"{path}\n" for path in paths),
                          capture_output=True, text=True, timeout=120, check=False)
    found = {name: (outcome, reason) for name, outcome, reason in map(json.loads, done.stdout.splitlines())}
    left = [path.name for path in paths if path.name not in found]
    assert done.returncode == 0, f"died on {left[:1]} with exit {done.returncode}: {done.stderr[-500:]}"
    assert not left
    return found


@pytest.mark.parametrize("folder", ["broken", "other"])
def test_every_difficult_file_ends_in_quarantine_gate_or_catalogue_with_its_reason(folder, real_dicom):
    found = outcomes(real_dicom / folder)
    assert len(found) > 90
    silent = {name: outcome for name, (outcome, reason) in found.items() if not reason}
    assert not silent, "none of these is a chest radiograph or chest report"
    assert {outcome for outcome, _ in found.values()} == {"unreadable", "Radiograph", "Unindexed"}


def test_no_structured_report_of_the_collection_passes_for_a_chest_report(real_dicom):
    found = outcomes(real_dicom / "sr")
    assert not {name for name, (outcome, reason) in found.items() if not reason}
    assert sum(outcome == "Report" for outcome, _ in found.values()) >= 10


#: What a person saw on a contact sheet: upright frontal chests; file -> (view by its header, gated because).
CHESTS = {
    "AIHCND_C2_Star__test1.dcm": ("frontal", None),
    "AIHCND_C2_Star__test2.dcm": ("frontal", None),
    "AIHCND_C2_Star__test4.dcm": ("frontal", None),
    "AIHCND_C2_Star__test6.dcm": ("unknown", None),
    "pydicom-data__RG1_J2KI.dcm": ("frontal", None),
    "torchxrayvisio__1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm": ("frontal", None),
}


@pytest.mark.parametrize("name", sorted(CHESTS))
def test_a_frontal_chest_shows_dark_lungs_beside_a_bright_mediastinum(name, real_dicom):
    content = read_instance(real_dicom / "cxr" / name, 512).content
    assert isinstance(content, Radiograph)
    assert (content.view, content.gate_reason) == CHESTS[name]
    assert min(content.pixels.shape) == 512
    rows, columns = content.pixels.shape
    band = content.pixels[rows // 3 : rows // 2].mean(0)
    middle = band[int(0.45 * columns) : int(0.6 * columns)].mean()
    lungs = [band[int(a * columns) : int(b * columns)].mean() for a, b in ((0.2, 0.4), (0.62, 0.8))]
    assert middle > max(lungs) + 0.05
    assert np.percentile(content.pixels, 95) - np.percentile(content.pixels, 5) > 0.25


def test_a_photometric_interpretation_changed_by_hand_is_believed(real_dicom):
    folder = real_dicom / "cxr"
    original = read_instance(next(folder.glob("torchxrayvisio__1.2.276*")), 512).content
    changed = read_instance(folder / "torchxrayvisio__Fake_MONOHR1.dcm", 512).content
    assert np.corrcoef(original.pixels.ravel(), changed.pixels.ravel())[0, 1] < -0.99


def test_a_dog_is_kept_out(real_dicom):
    content = read_instance(real_dicom / "cxr" / "highdicom__dx_image.dcm", 512).content
    assert content.gate_reason == "veterinary"
    assert content.view == "lateral"


@pytest.mark.parametrize("name", ["orthanc-tests__CR000000.dcm", "pydicom__chrJapMulti.dcm"])
def test_a_chest_without_pixels_is_quarantined(name, real_dicom):
    with pytest.raises(UnreadableInstance, match="no Pixel Data"):
        read_instance(real_dicom / "cxr" / name, 512)


def test_report_text_of_a_real_basic_text_sr_is_found(real_dicom):
    content = read_instance(real_dicom / "sr" / "cornerstoneWAD__no-pixel-data.dcm", 512).content
    assert isinstance(content, Report)
    assert len(content.findings.split()) > 100
    assert len(content.impression.split()) > 10
    assert content.state == "PRELIMINARY"


@pytest.mark.parametrize("short_side", [64, 224, 512, 4096])
def test_a_jpeg_2000_radiograph_is_read_at_every_size(short_side, real_dicom):
    content = read_instance(real_dicom / "cxr" / "pydicom-data__RG1_J2KI.dcm", short_side).content
    assert min(content.pixels.shape) >= min(short_side, 1500)
