"""The service as a whole: it starts, survives the death of any role, refuses what cannot be, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_encoder
from ports import free_port
from service import Service, running, wait_until

from daemon.roles import WORKER_NICENESS


def log_lines(service: Service) -> list[dict]:
    return [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]


def role_ids(service: Service) -> dict[str, int]:
    """Return the process id of each role that the supervisor has running now."""
    folder = service.directory / "data" / "run"
    return {path.stem: json.loads(path.read_text())["pid"] for path in folder.glob("*-0.json")}


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_other(environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daemon", "run"], env=environment, cwd=cwd, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("service"), **small_encoder.ENVIRONMENT) as service:
        yield service


def test_a_second_instance_on_the_same_storage_is_refused_with_one_sentence(service):
    other = Service(service.directory, environment={"CXRFIND_STORAGE__DIRECTORY": str(service.directory / "data")})
    refused = start_other(other.environment, service.directory)
    assert refused.returncode == 1
    assert refused.stderr.strip().count("\n") == 0
    assert "another cxrfind runs on" in refused.stderr


def test_worker_and_decoders_give_way_to_whoever_asks(service):
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    niceness = {role: os.getpriority(os.PRIO_PROCESS, pid) - ours for role, pid in role_ids(service).items()}
    assert niceness == {"listener-0": 0, "worker-0": min(WORKER_NICENESS, 19 - ours), "finder-0": 0}
    decoders = Path(f"/proc/{role_ids(service)['worker-0']}/task").glob("*/children")
    for process_id in " ".join(children.read_text() for children in decoders).split():
        assert os.getpriority(os.PRIO_PROCESS, int(process_id)) - ours == niceness["worker-0"]


def test_a_port_that_is_taken_is_named_in_one_sentence_and_nothing_is_started(service, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = Service(tmp_path, ingest_port=taken.getsockname()[1], similar_port=free_port())
        refused = start_other(other.environment, tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.strip().count("\n") == 0
    assert f"port {other.ingest_port}" in refused.stderr


@pytest.mark.parametrize("role", ["listener-0", "worker-0", "finder-0"])
def test_a_role_that_is_killed_is_started_again_and_the_others_go_on(service, role):
    before = role_ids(service)
    os.kill(before[role], signal.SIGKILL)
    after = wait_until(
        lambda: (ids := role_ids(service)) and ids.keys() == before.keys() and ids[role] != before[role] and ids,
        f"{role} is back",
    )
    assert {name: pid for name, pid in after.items() if name != role} == {
        name: pid for name, pid in before.items() if name != role
    }
    wait_until(lambda: service.status()["ready"], "the service is ready again")
    died = [line for line in log_lines(service) if line["event"] == "role.died" and line["process"] == role]
    assert [line["how"] for line in died] == ["SIGKILL"]


def test_no_decoder_outlives_a_killed_worker(service):
    worker = role_ids(service)["worker-0"]
    children = Path(f"/proc/{worker}/task/{worker}/children")
    decoders = [
        int(child)
        for task in Path(f"/proc/{worker}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    assert children.exists()
    assert decoders
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not any(is_running(decoder) for decoder in decoders), "the decoders are gone", 10)
    wait_until(lambda: service.status()["ready"], "the service is ready again")


def test_systemd_hears_of_each_stage_and_sigterm_ends_the_roles_in_order_and_leaves_nothing_behind(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(120)

        def wait_for(message: str) -> None:
            while message not in systemd.recv(4096).decode().splitlines():
                pass

        settings = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        with running(tmp_path, **settings, **small_encoder.ENVIRONMENT) as service:
            wait_for("READY=1")
            wait_for("WATCHDOG=1")
            processes = role_ids(service)
            assert service.stop() == 0
            wait_for("STOPPING=1")
    ended = [line["role"] for line in log_lines(service) if line["event"] == "role.ended"]
    assert ended == ["listener", "worker", "finder"]
    assert not any(is_running(process_id) for process_id in processes.values())
    assert not list((tmp_path / "data" / "run").glob("*.json"))


def test_one_role_alone_runs_in_the_foreground_and_ends_at_sigterm(tmp_path):
    service = Service(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-m", "daemon", "run", "--role", "listener"], env=service.environment, cwd=tmp_path,
        stderr=subprocess.PIPE, text=True,
    ) as listener:  # fmt: skip
        path = tmp_path / "data" / "run" / "listener-0.json"
        wait_until(lambda: path.exists() and json.loads(path.read_text())["ready"], "the listener is ready", 30)
        with socket.create_connection(("127.0.0.1", service.ingest_port), timeout=5):
            pass
        listener.terminate()
        assert listener.wait(20) == 0


def test_the_same_role_twice_on_one_storage_is_refused_with_one_sentence(service):
    command = [sys.executable, "-m", "daemon", "run", "--role", "worker"]
    refused = subprocess.run(command, env=service.environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 78
    assert "another worker runs on" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_roles_end_when_the_supervisor_is_killed_and_it_can_be_started_again(service):
    processes = role_ids(service)
    service.process.kill()
    service.process.wait()
    wait_until(lambda: not any(is_running(pid) for pid in processes.values()), "all roles are gone", 10)
    service.start()
    assert service.stop() == 0
