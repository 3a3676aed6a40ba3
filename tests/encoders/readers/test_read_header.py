"""Identity and queryable attributes, in whatever character set they come."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from encoders.base import UnreadableInstance
from encoders.readers import read_instance
from encoders.readers.header import QUERYABLE, header_of

GSPS = "1.2.840.10008.5.1.4.1.1.11.1"

# PS3.5 H.3, I.2, J.3, K.2: the standard's own examples.
YAMADA_JIS = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
HONG_KR = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
WANG_GB18030 = b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"


def with_raw(object_of, stored, charset: str | None, name: bytes, description: bytes = b""):
    """Return the header of an object whose text bytes are exactly these."""
    dataset = object_of(GSPS)
    if charset is None:
        del dataset.SpecificCharacterSet
    else:
        dataset.SpecificCharacterSet = charset.split("\\")
    marks = {"PatientName": (b"N" * 200, name), "StudyDescription": (b"D" * 200, description)}
    for keyword, (mark, _) in marks.items():
        setattr(dataset, keyword, mark.decode())
    path = stored(dataset)
    content = path.read_bytes()
    for mark, value in marks.values():
        content = content.replace(mark, value.ljust(200))
    path.write_bytes(content)
    return read_instance(path, 64).header.attributes


@pytest.mark.parametrize(
    ("charset", "name", "expected"),
    [
        ("\\ISO 2022 IR 87", YAMADA_JIS,
         {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}),
        ("\\ISO 2022 IR 149", HONG_KR,
         {"Alphabetic": "Hong^Gildong", "Ideographic": "洪^吉洞", "Phonetic": "홍^길동"}),
        ("GB18030", WANG_GB18030, {"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小东"}),
        ("ISO_IR 192", "Wáng^小东".encode(), {"Alphabetic": "Wáng^小东"}),
        ("ISO_IR 100", "Buc^Jérôme".encode("latin-1"), {"Alphabetic": "Buc^Jérôme"}),
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859-5"), {"Alphabetic": "Люкceмбypг"}),
        ("ISO_IR 126", "Διονυσιος".encode("iso8859-7"), {"Alphabetic": "Διονυσιος"}),
        # wrong or missing, as senders do it
        (None, "Müller^Jörg".encode(), {"Alphabetic": "Müller^Jörg"}),
        (None, "Müller^Jörg".encode("latin-1"), {"Alphabetic": "Müller^Jörg"}),
        ("ISO_IR 192", "Müller^Jörg".encode("latin-1"), {"Alphabetic": "Müller^Jörg"}),
        ("NO SUCH SET", "Müller^Jörg".encode(), {"Alphabetic": "Müller^Jörg"}),
        ("ISO_IR 192", b"A\xff\xfe^B", {"Alphabetic": "Aÿþ^B"}),
    ],
)
def test_a_name_is_decoded_by_its_character_set_or_in_spite_of_it(charset, name, expected, object_of, stored):
    attributes = with_raw(object_of, stored, charset, name)
    assert attributes["00100010"] == {"vr": "PN", "Value": [expected]}


def test_a_backslash_byte_inside_a_gb18030_character_does_not_split_the_value(object_of, stored):
    text = "胸部誠"                                                       # its last byte in GBK is a backslash
    assert b"\\" in text.encode("gb18030")
    attributes = with_raw(object_of, stored, "GB18030", b"X", text.encode("gb18030"))
    assert attributes["00081030"]["Value"] == [text]


def test_a_header_is_plain_json_of_queryable_attributes_only(object_of, phantom, image, stored):
    dataset = image(phantom, StudyDescription="Chest", AccessionNumber="A1", PatientWeight="70.5", InstanceNumber=3,
                    ImageType=["DERIVED", "PRIMARY"], OperatorsName=["A^B", "C^D"], KVP="120")
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "HOSPITAL"
    dataset.IssuerOfAccessionNumberSequence = Sequence([issuer])
    attributes = read_instance(stored(dataset), 64).header.attributes
    assert json.loads(json.dumps(attributes)) == attributes
    assert {int(tag, 16) for tag in attributes} <= {int(Tag(keyword)) for keyword in QUERYABLE}
    assert attributes["00101030"] == {"vr": "DS", "Value": [70.5]}
    assert attributes["00200013"] == {"vr": "IS", "Value": [3]}
    assert attributes["00080008"]["Value"] == ["DERIVED", "PRIMARY"]
    assert attributes["00081070"]["Value"] == [{"Alphabetic": "A^B"}, {"Alphabetic": "C^D"}]
    assert attributes["00080051"]["Value"] == [{"00400031": {"vr": "UT", "Value": ["HOSPITAL"]}}]
    assert attributes["00280010"] == {"vr": "US", "Value": [300]}


def test_values_beyond_reading_cost_the_attribute_not_the_object(object_of, stored):
    dataset = object_of(GSPS, StudyDescription="kept")
    for keyword in ("InstanceNumber", "PatientWeight", "Rows"):
        dataset.add_new(keyword, "LO", "no number")
    attributes = read_instance(stored(dataset), 64).header.attributes
    assert attributes["00081030"]["Value"] == ["kept"]
    assert "Value" not in attributes["00200013"]
    assert "Value" not in attributes["00101030"]


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "1.2.not-a-uid", "1." + "2" * 80, "1.2*"])
def test_an_object_without_a_usable_uid_is_refused_with_its_name(keyword, value, object_of):
    dataset = object_of(GSPS)
    if value is None:
        del dataset[keyword]
    else:
        dataset[keyword]._value = value
    with pytest.raises(UnreadableInstance, match=r"(SOP|Study|Series) Instance UID") as caught:
        header_of(dataset)
    assert "not-a-uid" not in str(caught.value)


def test_odd_but_harmless_uids_are_kept_as_they_are(object_of):
    dataset = object_of(GSPS)
    dataset["StudyInstanceUID"]._value = "1.02.003.4"
    assert header_of(dataset).study_instance_uid == "1.02.003.4"
