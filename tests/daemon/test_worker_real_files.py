"""Real DICOM files, difficult and broken ones too: each is indexed, kept out or put aside with its reason."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread
from test_worker import open_all, work

from storage.base import InstanceState
from storage.spool import Spool

DATA = Path(os.environ.get("CXRFIND_TEST_DATA", "/nonexistent")) / "dicom"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="CXRFIND_TEST_DATA names no folder with dicom/ in it")


def put(spool, number, source):
    path = spool.new_file()
    shutil.copyfile(source, path)
    spool.accept(
        path, sop_class_uid="", sop_instance_uid=f"1.2.{number}", transfer_syntax_uid="", calling_ae_title="PACS",
        digest=hashlib.sha256(path.read_bytes()).hexdigest(), size_bytes=path.stat().st_size,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["cxr", "sr", "other", "broken"])
def test_every_real_file_ends_somewhere_with_its_reason_and_the_worker_goes_on(tmp_path, folder):
    files = sorted(path for path in (DATA / folder).rglob("*") if path.is_file() and path.name != "index.csv")
    assert files
    spool = Spool(tmp_path / "spool")
    for number, path in enumerate(files):
        put(spool, number, path)
    work(tmp_path, read_timeout_s=60, batch_size=8)
    _, catalogue, _ = open_all(tmp_path)
    aside = {instance.sop_instance_uid: reason for instance, reason in spool.quarantined()}
    assert spool.counts()["done"] + len(aside) == len(files)
    for number, path in enumerate(files):
        if f"1.2.{number}" in aside:
            assert aside[f"1.2.{number}"], path.name
            continue
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        state, reason = catalogue.example_state(str(header.SOPInstanceUID))
        assert state is InstanceState.INDEXED or reason, path.name
