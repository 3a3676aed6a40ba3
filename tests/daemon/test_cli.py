"""The command line: every command documented, faults said in one sentence, help without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from daemon.cli import cli
from daemon.config import load

ROOT = Path(__file__).resolve().parents[2]


def cxrfind(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself_and_its_options(name):
    command = cli.commands[name]
    assert command.help
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_stands_in_the_readme(name):
    assert f"cxrfind {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_of_the_readme_exists():
    named = re.findall(r"^(?:\$ )?cxrfind ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert set(named) <= set(cli.commands)


def test_help_does_not_wait_for_torch():
    code = "import sys; from daemon.cli import cli; assert not {'torch', 'pynetdicom', 'hnswlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("role", ["worker", "finder"])
def test_a_role_s_numpy_is_imported_only_after_it_has_been_told_to_use_one_thread(tmp_path, role):
    (tmp_path / "probe.py").write_text(
        "import os\nfrom encoders.base import CheckpointError\n"
        "def encoder(*_): raise CheckpointError(os.environ['OPENBLAS_NUM_THREADS'])\n"
    )
    (tmp_path / "cxrfind.toml").write_text('[encoder]\ntype = "probe:encoder"\n')
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "run", "--role", role, "--config", "cxrfind.toml"], cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS", "CXRFIND"))},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr.strip().endswith("cannot start: 1")
    code = "import sys; from daemon.cli import cli; assert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_init_writes_a_configuration_that_can_be_loaded_and_never_overwrites_one(tmp_path):
    runner = CliRunner()
    path = tmp_path / "cxrfind.toml"
    assert runner.invoke(cli, ["init", str(path)]).exit_code == 0
    path.write_text("# mine\n", encoding="utf-8")
    again = runner.invoke(cli, ["init", str(path)])
    assert again.exit_code == 1
    assert "there already" in again.output
    assert path.read_text(encoding="utf-8") == "# mine\n"


def test_init_writes_where_the_service_keeps_everything_so_that_every_command_finds_it(tmp_path):
    path = tmp_path / "cxrfind.toml"
    assert CliRunner().invoke(cli, ["init", str(path), "--directory", str(tmp_path / "kept")]).exit_code == 0
    assert load(path).storage.directory == tmp_path / "kept"


def test_a_file_that_cannot_be_used_is_one_sentence_with_a_cure(tmp_path):
    done = cxrfind("init", str(tmp_path / "nowhere" / "cxrfind.toml"))
    assert done.returncode == 1
    assert done.stderr == f"cxrfind: {tmp_path}/nowhere/cxrfind.toml: no such file or directory; mend that or name " \
        "another one\n"


def test_what_the_service_keeps_is_nobody_else_s_to_read(tmp_path):
    ports = '[ingest]\nport = 0\n[similar]\nhost = "127.0.0.2"\nport = 0\n'
    (tmp_path / "cxrfind.toml").write_text(f'{ports}[encoder]\ntype = "nope:Class"\n')
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "run", "--config", "cxrfind.toml"], cwd=tmp_path, umask=0,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "nope:Class" in done.stderr
    kept = [tmp_path / "cxrfind-data", *(tmp_path / "cxrfind-data").rglob("*")]
    assert {"cxrfind-data", "run", "spool"} <= {path.name for path in kept}
    assert [path for path in kept if path.stat().st_mode & 0o007] == []


def test_a_fault_in_the_configuration_is_one_sentence_without_traceback(tmp_path):
    path = tmp_path / "cxrfind.toml"
    path.write_text("[ingest]\nport = 'x'\n", encoding="utf-8")
    done = cxrfind("check-config", "--config", str(path))
    assert done.returncode == 2
    assert "line 2, key ingest.port" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_config_names_a_port_that_is_taken(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = tmp_path / "cxrfind.toml"
        path.write_text(f"[ingest]\nport = {taken.getsockname()[1]}\n[similar]\nport = 0\n", encoding="utf-8")
        done = cxrfind("check-config", "--config", str(path))
    assert done.returncode == 1
    assert "ingest.port" in done.stderr


@pytest.mark.parametrize(("url", "told"), [
    ("sqlite:///{folder}/notes.txt/catalogue.db", "notes.txt/catalogue.db cannot be made"),
    ("sqlite:///{folder}/notes.txt", "not a database"),
    ("nobase://host/name", "catalogue.url cannot be used"),
    ("sqlite:///{folder}/new/catalogue.db", ""),
])  # fmt: skip
def test_check_config_looks_whether_the_catalogue_can_be_opened_and_makes_none(tmp_path, url, told):
    (tmp_path / "notes.txt").write_text("notes of somebody else, " * 100, encoding="utf-8")
    path = tmp_path / "cxrfind.toml"
    path.write_text(
        f"[ingest]\nport = 0\n[similar]\nport = 0\n[storage]\ndirectory = '{tmp_path}/data'\n"
        f"[catalogue]\nurl = '{url.format(folder=tmp_path)}'\n",
        encoding="utf-8",
    )
    done = cxrfind("check-config", "--config", str(path))
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if told else 0), done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"cxrfind.toml", "notes.txt"}


@pytest.mark.parametrize("peer", ["CXRFIND", "CXRFIND@host", "@127.0.0.1:11112", "CXRFIND@127.0.0.1:0"])
def test_a_peer_that_is_not_ae_at_host_port_is_refused_with_an_example(tmp_path, peer):
    answer = CliRunner().invoke(cli, ["send", str(tmp_path), "--to", peer])
    assert answer.exit_code == 2
    assert "CXRFIND@127.0.0.1:11112" in answer.output
