"""Damaged, lying and malicious objects end in UnreadableInstance with a reason, in reasonable time and memory."""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID

from encoders.base import Radiograph, UnreadableInstance
from encoders.readers import TRANSFER_SYNTAXES, read_instance

COMPRESSED = [syntax.uid for syntax in TRANSFER_SYNTAXES if syntax.compressed]
NAMES = {syntax.uid: syntax.name for syntax in TRANSFER_SYNTAXES}


def frame_of(dataset) -> bytes:
    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def refused(path, reason: str) -> None:
    with pytest.raises(UnreadableInstance, match=reason):
        read_instance(path, 128)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels are declared"),
        ({"Rows": 0}, "0 x 240"),
        ({"Rows": 301}, "holds 144000 of the 144480 bytes"),
        ({"BitsAllocated": 32}, "holds 144000 of the 288000 bytes"),
        ({"BitsAllocated": 0}, "BitsAllocated is 0"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12"),
        ({"BitsStored": 17}, "contradict each other"),
        ({"HighBit": 16}, "contradict each other"),
        ({"BitsStored": 0}, "contradict each other"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel 3"),
        ({"SamplesPerPixel": 2}, "SamplesPerPixel 2"),
        ({"PhotometricInterpretation": "CMYK"}, "Photometric Interpretation"),
        ({"PhotometricInterpretation": ""}, "Photometric Interpretation"),
        ({"Rows": None}, "Rows is missing"),
    ],
    ids=str,
)
def test_a_header_that_lies_about_its_pixels_is_refused(attributes, reason, phantom, image, stored):
    dataset = image(phantom)
    for keyword, value in attributes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    refused(stored(dataset), reason)


def test_an_image_without_pixel_data_is_refused(phantom, image, stored):
    dataset = image(phantom)
    del dataset.PixelData
    refused(stored(dataset), "no Pixel Data")


def eight_bit(uid: str, phantom: np.ndarray) -> tuple[np.ndarray, int]:
    return ((phantom >> 4).astype(np.uint8), 8) if uid.endswith(".50") else (phantom, 12)


@pytest.mark.parametrize("uid", COMPRESSED, ids=NAMES.get)
def test_a_truncated_frame_is_refused(uid, phantom, image, stored):
    dataset = image(*((array := eight_bit(uid, phantom))[0], uid, array[1]))
    frame = frame_of(dataset)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    refused(stored(dataset), "truncated|refuses the frame|samples")


@pytest.mark.parametrize("uid", COMPRESSED, ids=NAMES.get)
@pytest.mark.parametrize("frame", [b"\0\0", b"\0" * 64, b"\xff\xd8\xff\xe0", b"\xff\x4f\xff\x51" + b"\xff" * 60])
def test_a_frame_that_is_none_is_refused(uid, frame, phantom, image, stored):
    dataset = image(*((array := eight_bit(uid, phantom))[0], uid, array[1]))
    dataset.PixelData = encapsulate([frame])
    refused(stored(dataset), ".")


@pytest.mark.parametrize("uid", [uid for uid in COMPRESSED if not uid.endswith(".5")], ids=NAMES.get)
def test_a_stream_of_another_size_than_the_header_says_is_refused_before_decoding(uid, phantom, image, stored):
    dataset = image(*((array := eight_bit(uid, phantom))[0], uid, array[1]))
    dataset.Rows = 20
    refused(stored(dataset), "the compressed stream is 300 x 240, the header says 20 x 240")


@pytest.mark.parametrize(
    ("word", "value", "reason"),
    [(0, 0, "0 segments"), (0, 15, "15 segments"), (1, 8, "segment table"), (1, 1 << 31, "segment table"),
     (2, 0xFFFFFFFF, "segment table"), (2, 70, "holds")],
)
def test_an_rle_header_that_lies_is_refused(word, value, reason, phantom, image, stored):
    dataset = image(phantom, "1.2.840.10008.1.2.5", 12)
    frame = bytearray(frame_of(dataset))
    frame[4 * word : 4 * word + 4] = value.to_bytes(4, "little")
    dataset.PixelData = encapsulate([bytes(frame)])
    refused(stored(dataset), reason)


def test_an_unknown_transfer_syntax_is_named(phantom, image, stored):
    dataset = image(phantom)
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102")
    dataset.PixelData = encapsulate([b"\0\0\0\1"])
    refused(stored(dataset), r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.102")


def test_a_deflate_bomb_is_not_inflated(phantom, image, stored, monkeypatch):
    monkeypatch.setattr("encoders.readers.instance.MAX_INFLATED_BYTES", 1 << 20)
    path = stored(image(np.zeros((2000, 2000), np.uint16), "1.2.840.10008.1.2.1.99"))
    assert path.stat().st_size < 1 << 15
    refused(path, "larger than 1048576 bytes")


@pytest.mark.parametrize("damage", ["cut", "not deflated at all"])
def test_a_damaged_deflated_data_set_is_refused(damage, phantom, image, stored):
    path = stored(image(phantom, "1.2.840.10008.1.2.1.99"))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-5000:]
    else:
        content[400:] = b"\xff" * 1000
    path.write_bytes(content)
    refused(path, "deflated data set|not a readable|bytes of a frame")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 200, b"\0" * 128 + b"DICM", b"%PDF-1.4", b"PK\x03\x04" + b"\0" * 200, bytes(range(256)) * 8,
     b"\0" * 128 + b"DICM" + b"\x08\0\x18\0UI\xfe\xff" + b"1" * 20, zlib.compress(b"\0" * 5000)],
    ids=range(8),
)
def test_what_is_no_dicom_file_is_refused(content, tmp_path):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    refused(path, ".")


def test_a_missing_file_is_refused_with_the_system_s_reason(tmp_path):
    refused(tmp_path / "gone.dcm", "No such file")


def test_reasons_never_hold_what_the_header_says_of_the_patient(phantom, image, stored):
    dataset = image(phantom, PatientName="SECRET^NAME", PatientID="SECRET")
    for keyword in ("PhotometricInterpretation", "Modality"):
        dataset[keyword].value = "SECRET"
    with pytest.raises(UnreadableInstance) as caught:
        read_instance(stored(dataset), 128)
    assert "SECRET" not in str(caught.value)


def test_nested_sequences_without_end_do_not_end_the_process(tmp_path):
    item = b"\x08\0\x40\x11\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"      # implicit: sequence, item
    path = tmp_path / "deep.dcm"
    path.write_bytes(b"\x08\0\x16\0\x1a\0\0\0" + b"1.2.840.10008.5.1.4.1.1.1\0" + item * 20000)
    refused(path, ".")


FUZZ = """
import random, sys
from pathlib import Path
from encoders.base import UnreadableInstance
from encoders.readers import read_instance
path, out = Path(sys.argv[1]), Path(sys.argv[2])
whole = path.read_bytes()
outcomes = {"read": 0, "refused": 0}
for seed in range(25):
    chance = random.Random(seed)
    content = bytearray(whole)
    for _ in range(chance.choice((1, 3, 20))):
        content[chance.randrange(132, len(content))] = chance.randrange(256)
    out.write_bytes(content)
    try:
        read_instance(out, 100)
        outcomes["read"] += 1
    except UnreadableInstance:
        outcomes["refused"] += 1
assert sum(outcomes.values()) == 25
"""


@pytest.mark.parametrize("uid", [syntax.uid for syntax in TRANSFER_SYNTAXES], ids=NAMES.get)
def test_no_flipped_byte_ends_the_process(uid, phantom, image, stored, tmp_path):
    path = stored(image(*((array := eight_bit(uid, phantom))[0], uid, array[1])))
    assert isinstance(read_instance(path, 100).content, Radiograph)
    done = subprocess.run([sys.executable, "-c", FUZZ, str(path), str(tmp_path / "mutant.dcm")],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-500:]}"
