"""Orthanc as the PACS: it forwards what it receives by the recipe in deploy/, and what it sent is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from ports import free_port
from service import ROOT, running, wait_until

from encoders.phantom import write_studies

ORTHANC = shutil.which("Orthanc")


def post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST"), timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed (apt-get install orthanc)")
def test_what_orthanc_receives_is_forwarded_and_can_be_found(tmp_path: Path):
    assert ORTHANC is not None
    http, dicom = free_port(), free_port()
    paths = write_studies(tmp_path / "dicom", 4, 11, size=(320, 320), transfer_syntax="1.2.840.10008.1.2.1")
    with running(tmp_path) as service:
        configuration = {
            "Name": "pacs", "StorageDirectory": str(tmp_path / "orthanc"), "HttpPort": http, "DicomPort": dicom,
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAet": "PACS",
            "LuaScripts": [str(ROOT / "deploy" / "orthanc-forward.lua")],
            "DicomModalities": {
                "cxrfind": {"AET": "CXRFIND", "Host": "127.0.0.1", "Port": service.ingest_port, "AllowEcho": True}
            },
        }
        (tmp_path / "orthanc.json").write_text(json.dumps(configuration))
        with (tmp_path / "orthanc.log").open("wb") as log:
            orthanc = subprocess.Popen([ORTHANC, str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{http}"

            def answers() -> bool:
                try:
                    urllib.request.urlopen(f"{url}/system", timeout=5).close()
                except OSError:
                    return False
                return True

            wait_until(answers, "Orthanc answers")
            post(f"{url}/modalities/cxrfind/echo", b"{}")
            for path in paths:
                post(f"{url}/instances", path.read_bytes())
            wait_until(lambda: service.status()["instances"] == len(paths), "all has been sent on")
            facts = service.wait_until_searchable()
            assert facts["studies"] == 4
            assert facts["images_searchable"] >= 4
            assert facts["quarantined"] == 0
        finally:
            orthanc.terminate()
            orthanc.wait(timeout=30)
