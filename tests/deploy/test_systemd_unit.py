"""The systemd unit is one that systemd accepts, and its figures fit the supervisor's."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import supervisor
from daemon.config import load
from daemon.finder.haste import NICER, REALTIME

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture
def service():
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "cxrfind.service")
    return parser["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed (Debian: systemd)")
def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    unit = tmp_path / "cxrfind.service"
    text = (DEPLOY / "cxrfind.service").read_text()
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))
    verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr.strip()) == (0, "")


def test_systemd_waits_longer_than_the_supervisor_needs_to_end_its_roles(service):
    assert float(service["TimeoutStopSec"].rstrip("s")) > sum(supervisor.GRACE_S.values())
    assert sum(supervisor.GRACE_S.values()) <= 30
    assert service["KillMode"] == "mixed"           # SIGTERM to the supervisor alone


def test_the_watchdog_waits_until_the_supervisor_has_dealt_with_a_silent_role(service):
    assert service["Type"] == "notify"
    assert float(service["WatchdogSec"].rstrip("s")) > 2 * supervisor.HUNG_AFTER_S


def test_the_unit_lets_queries_go_before_the_worker(service):
    assert int(service["LimitRTPRIO"]) == REALTIME
    assert int(service["LimitNICE"]) == -NICER
    assert service.get("RestrictRealtime", "no") == "no"


def test_the_environment_of_the_unit_is_one_that_cxrfind_accepts(monkeypatch):
    text = (DEPLOY / "cxrfind.service").read_text()
    variables = dict(re.findall(r"^Environment=(CXRFIND_\w+)=(\S+)$", text, flags=re.MULTILINE))
    assert variables
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load()
    assert config.log.format == "json"


def test_the_documented_installation_writes_into_the_configuration_where_the_unit_lets_the_service_write(service):
    wanted = service["WorkingDirectory"]
    assert wanted == f"/var/lib/{service['StateDirectory']}"
    for text in ((DEPLOY / "README.md").read_text(), (DEPLOY / "cxrfind.service").read_text()):
        assert re.findall(r"cxrfind init .*--directory (\S+)", text) == [wanted]
    assert "STORAGE__DIRECTORY" not in (DEPLOY / "cxrfind.service").read_text()     # it would win over the file
