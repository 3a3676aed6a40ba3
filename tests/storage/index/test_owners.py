"""Which study and instance a label stands for, whatever comes and goes."""

import numpy as np
import pytest

from storage.base import EmbeddingRow, Kind, StorageError
from storage.index.owners import Owners
from storage.numbers import Numbers

VECTOR = np.zeros(1, dtype=np.float32)


def row(label, kind, study, sop=""):
    return EmbeddingRow(label, label, kind, study, sop, VECTOR)


def filled():
    owners = Owners(Numbers())
    owners.put([row(1, Kind.IMAGE, "1.1", "1.1.1"), row(2, Kind.JOINT, "1.1")])
    image, report = row(7, Kind.IMAGE, "1.2", "1.2.1"), row(9, Kind.REPORT, "1.2", "r")
    owners.put([row(5, Kind.IMAGE, "1.1", "1.1.2"), image, report])
    return owners


def loaded(owners, folder):
    """Return what another process loads, in which studies are known already, in another order."""
    owners.save(folder)
    numbers = Numbers()
    numbers.of(["9.9", "1.2", "8.8", "7.7"])
    return Owners.load(folder, numbers)


def told_of(owners, labels, *asked):
    """Return StudyInstanceUID and SOPInstanceUID of each label, None of one that is not here."""
    studies, places = owners.owners(np.asarray(labels, dtype=np.int64), *asked)
    told = [None] * len(labels)
    for place, study in zip(range(len(labels)) if places is None else places, studies, strict=True):
        told[place] = (owners._numbers.texts[study], owners.sop_instance_uid(labels[place]))
    return told


@pytest.fixture(params=["as put", "as loaded"])
def owners(request, tmp_path):
    return filled() if request.param == "as put" else loaded(filled(), tmp_path)


def test_a_label_has_an_owner_and_a_kind(owners):
    assert owners.owner(5) == ("1.1", "1.1.2")
    assert owners.owner(2) == ("1.1", "")
    assert owners.kind_of(9) is Kind.REPORT
    assert owners.owner(3) is owners.kind_of(100) is None


def test_owners_of_many_labels_are_told_of_those_that_are_here(owners):
    def told(*asked):
        return told_of(owners, [9, 3, 0, 1, 2, 10], *asked)

    assert told() == [("1.2", "r"), None, None, ("1.1", "1.1.1"), ("1.1", ""), None]
    assert told(Kind.REPORT, False) == [None, None, None, ("1.1", "1.1.1"), ("1.1", ""), None]
    assert told(Kind.REPORT, True) == [("1.2", "r"), None, None, None, None, None]


def test_nobody_owns_anything_before_there_is_something():
    assert told_of(Owners(Numbers()), []) == told_of(filled(), []) == []
    assert told_of(Owners(Numbers()), [3, 4]) == [None, None]
    assert told_of(Owners(Numbers()), [3, 4], Kind.REPORT, False) == [None, None]


def test_labels_may_begin_anywhere_and_leave_numbers_out(tmp_path):
    owners = Owners(Numbers())
    owners.put([row(2_000_000, Kind.IMAGE, "1.1", "1.1.1"), row(2_000_900, Kind.IMAGE, "1.2", "1.2.1")])
    for held in (owners, loaded(owners, tmp_path)):
        held.put([row(2_001_000, Kind.IMAGE, "1.3", "1.3.1")])
        assert held.owner(2_000_900) == ("1.2", "1.2.1")
        assert held.owner(2_001_000) == ("1.3", "1.3.1")
        assert all(held.owner(label) is None for label in (0, 900, 1_999_999, 2_000_001, 2_001_001, 5_000_000))


def test_a_study_has_labels_by_kind(owners):
    assert owners.labels_of(Kind.IMAGE, ["1.1", "1.2", "9.9"]).tolist() == [1, 5, 7]
    assert owners.labels_of(Kind.JOINT, ["1.2"]).tolist() == []
    assert owners.holds(Kind.JOINT, "1.1")
    assert not owners.holds(Kind.JOINT, "1.2")
    assert not owners.holds(Kind.IMAGE, "9.9")
    assert owners.labels_without(Kind.IMAGE, Kind.IMAGE, Kind.REPORT).tolist() == [1, 5]
    assert owners.labels_without(Kind.JOINT, Kind.IMAGE, Kind.REPORT).tolist() == [2]
    assert owners.labels_without(Kind.IMAGE, Kind.REPORT, Kind.JOINT).tolist() == [7]


def test_a_study_holds_a_kind_until_the_last_of_it_has_gone(owners):
    owners.drop(5)
    assert owners.holds(Kind.IMAGE, "1.1")
    owners.drop(1)
    assert not owners.holds(Kind.IMAGE, "1.1")
    assert owners.holds(Kind.JOINT, "1.1")
    assert told_of(owners, [2], Kind.IMAGE, False) == [("1.1", "")]


def test_what_is_dropped_is_gone_also_after_loading(owners, tmp_path):
    owners.drop(1)
    owners.drop(9)
    for held in (owners, loaded(owners, tmp_path)):
        assert held.owner(1) is None
        assert told_of(held, [1, 5, 9, 7]) == [None, ("1.1", "1.1.2"), None, ("1.2", "1.2.1")]
        assert held.labels_of(Kind.IMAGE, ["1.1"]).tolist() == [5]
        assert not held.holds(Kind.REPORT, "1.2")
        assert held.holds(Kind.IMAGE, "1.1")                                # the other image
        assert held.labels_without(Kind.IMAGE, Kind.IMAGE, Kind.REPORT).tolist() == [5, 7]


def test_more_come_after_loading(owners):
    owners.put([row(10, Kind.IMAGE, "1.2", "1.2.2"), row(11, Kind.IMAGE, "1.3", "1.3.1")])
    assert owners.labels_of(Kind.IMAGE, ["1.2", "1.3"]).tolist() == [7, 10, 11]
    assert owners.owner(11) == ("1.3", "1.3.1")
    assert owners.owner(1) == ("1.1", "1.1.1")


def test_uids_longer_than_the_standard_allows_are_kept_whole(owners, tmp_path):
    study, sop = "1." + "2" * 90, "1.ü" + "3" * 100
    owners.put([row(20, Kind.IMAGE, study, sop)])
    for held in (owners, loaded(owners, tmp_path)):
        assert held.owner(20) == (study, sop)
        assert held.owner(7) == ("1.2", "1.2.1")
        assert held.labels_of(Kind.IMAGE, [study]).tolist() == [20]


@pytest.mark.parametrize("sop", ["1", "10", "1.00", "0.0", "1.2.840.113619.2.55.3." + "4" * 42, "f", "1.2 ", "1\xff2"])
def test_uids_are_kept_as_they_came_in_half_of_their_bytes(owners, tmp_path, sop):
    owners.put([row(20, Kind.IMAGE, "1.3", sop)])
    for held in (owners, loaded(owners, tmp_path)):
        assert held.owner(20) == ("1.3", sop)
        assert held.owner(7) == ("1.2", "1.2.1")
        assert held._sops.itemsize <= 32


def test_a_snapshot_made_before_uids_were_packed_is_read(tmp_path):
    filled().save(tmp_path)
    with np.load(tmp_path / "owners.npz") as file:
        columns = dict(file)
    columns["sops"] = np.asarray([b"1.1.1", b"1.1.2", b"1.2.1", b"r"])
    del columns["packed_sops"]
    np.savez(tmp_path / "owners.npz", **columns)
    held = Owners.load(tmp_path, Numbers())
    assert [held.owner(label) for label in (1, 2, 9)] == [("1.1", "1.1.1"), ("1.1", ""), ("1.2", "r")]


def test_a_file_that_contradicts_itself_is_refused(tmp_path):
    filled().save(tmp_path)
    with np.load(tmp_path / "owners.npz") as file:
        columns = dict(file)
    np.savez(tmp_path / "owners.npz", **{**columns, "studies": columns["studies"][:-1]})
    with pytest.raises(StorageError, match="contradicts"):
        Owners.load(tmp_path, Numbers())


def test_a_study_that_is_known_and_holds_nothing_here_has_no_labels(owners):
    owners._numbers.of(["5.5"])
    assert owners.labels_of_study("5.5") == {}
    assert owners.labels_of(Kind.IMAGE, ["5.5", "1.2"]).tolist() == [7]
    assert not owners.holds(Kind.IMAGE, "5.5")
