"""The configuration: defaults, the environment, and faults that name their place and cure."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from daemon.checks import check, check_parts
from daemon.config import ConfigError, EncoderSection, load
from daemon.example_config import example_config
from daemon.roles import heartbeat_path, run_folder, write_heartbeat


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cxrfind.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_only_loopback_peers_are_served():
    config = load()
    assert config.ingest.host == config.similar.host == "127.0.0.1"
    assert [(peer.ae_title, peer.address) for peer in config.peers] == [("*", "127.0.0.1")]
    assert (config.ingest.ae_title, config.ingest.port) == ("CXRFIND", 11112)
    assert (config.similar.ae_title, config.similar.port) == ("CXRSIMILAR", 11113)


def test_a_runtime_that_is_not_installed_or_not_for_the_device_is_a_fault_that_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)              # for the import system: not installed
    config = load().model_copy(update={"encoder": EncoderSection(runtime="openvino")})
    assert any("pip install 'cxrfind[openvino]'" in fault for fault in check(config))
    config = load().model_copy(update={"encoder": EncoderSection(runtime="auto")})
    assert not any("runtime" in fault for fault in check(config))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[index]\ntype = 'nope'\n", "index.type = 'nope' is neither"),
        ("[encoder]\ntype = 'nope:Class'\n", "encoder 'nope:Class' cannot be imported"),
        ("[encoder]\ndevice = 'quantum'\n", 'encoder.device = "quantum" cannot be used here'),
    ],
)
def test_a_part_that_cannot_be_loaded_is_a_fault_before_the_service_starts(tmp_path, text, fault):
    (said,) = check_parts(load(write(tmp_path, text)))
    assert said.startswith(fault)
    assert check_parts(load()) == []


def test_tls_files_that_hold_no_certificate_are_a_fault(tmp_path):
    pem = tmp_path / "x.pem"
    pem.write_text("nothing")
    path = write(tmp_path, f"[tls]\ncertificate = '{pem}'\nkey = '{pem}'\nca = '{pem}'\n")
    assert any("check the PEM files" in fault for fault in check(load(path)))


def test_a_port_that_the_running_service_has_itself_is_no_fault(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as own:
        text = f"[ingest]\nport = {own.getsockname()[1]}\n[similar]\nport = 0\n[storage]\ndirectory = '{tmp_path}'\n"
        config = load(write(tmp_path, text))
        assert any("ingest.port" in fault for fault in check(config))
        run_folder(tmp_path)
        write_heartbeat(heartbeat_path(tmp_path, "listener", 0), {"ready": True})
        assert not any("ingest.port" in fault for fault in check(config))


def test_a_variable_of_a_whole_section_that_is_no_json_is_named_with_the_way_to_set_one_key(monkeypatch):
    monkeypatch.setenv("CXRFIND_INGEST", "abc")
    with pytest.raises(ConfigError, match="CXRFIND_INGEST: not valid JSON; set its keys one by one"):
        load()


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    path = write(tmp_path, "[ingest]\nport = 104\nae_title = 'A'\n")
    monkeypatch.setenv("CXRFIND_INGEST__PORT", "2104")
    config = load(path)
    assert (config.ingest.port, config.ingest.ae_title) == (2104, "A")


def test_an_unknown_key_is_named_with_its_line_and_the_keys_there_are(tmp_path):
    path = write(tmp_path, "[ingest]\nae_title = 'A'\nprot = 104\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert f"{path}, line 3, key ingest.prot" in message
    assert "port" in message


def test_a_wrong_type_is_named_with_its_line_and_the_value_given(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2, key index\.m: .*integer.*'many'"):
        load(write(tmp_path, "[index]\nm = 'many'\n"))


def test_a_fault_in_the_second_peer_is_found_in_the_second_block(tmp_path):
    text = "[[peers]]\nae_title = 'A'\nrights = ['store']\n\n[[peers]]\nae_title = 'B'\nrights = ['fly']\n"
    with pytest.raises(ConfigError, match=r"line 7, key peers\.1\.rights\.0"):
        load(write(tmp_path, text))


def test_a_fault_from_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("CXRFIND_SIMILAR__PORT", "many")
    with pytest.raises(ConfigError, match="environment variable CXRFIND_SIMILAR__PORT"):
        load()


def test_an_unknown_section_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("CXRFIND_INJEST__PORT", "1")
    with pytest.raises(ConfigError, match="CXRFIND_INJEST__PORT"):
        load()


@pytest.mark.parametrize("title", ["", "  ", "A" * 17, "B\\C", "Ä"])
def test_an_ae_title_that_dicom_forbids_is_refused(tmp_path, title):
    with pytest.raises(ConfigError, match=r"ingest\.ae_title"):
        load(write(tmp_path, f"[ingest]\nae_title = '{title}'\n"))


def test_text_that_is_not_toml_is_refused_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        load(write(tmp_path, "[ingest\n"))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml")


def test_the_example_configuration_is_valid_and_changes_nothing(tmp_path):
    assert load(write(tmp_path, example_config())) == load()


def test_every_default_of_the_example_is_valid_when_its_comment_sign_is_taken_away(tmp_path):
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in
             example_config().splitlines()]
    config = load(write(tmp_path, "\n".join(lines)))
    assert config.model_copy(update={"peers": load().peers}) == load()
    assert config.peers[0].ae_title == "PACS"


def test_the_example_in_deploy_is_the_one_that_init_writes():
    root = Path(__file__).resolve().parents[2]
    assert (root / "deploy" / "cxrfind.example.toml").read_text(encoding="utf-8") == example_config()
