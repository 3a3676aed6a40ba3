"""What ``cxrfind check-config`` looks at beyond types: can this configuration really be run on this machine?"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import daemon
from daemon.config import Config, ConfigError
from daemon.service_status import heartbeats
from daemon.tls import tls_context
from encoders.base import EncodersError
from encoders.checkpoint import model_info
from encoders.runtimes import require


def _own_daemon() -> list[str]:
    if hasattr(daemon, "__version__") and (Path(daemon.__file__).parent / "example_config.py").exists():
        return []
    return ["the import name 'daemon' is another package here (python-daemon?): install cxrfind in an own environment"]


def _port(title: str, host: str, port: int) -> list[str]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return [f"{title}: port {port} on {host} cannot be used ({error.strerror}); set another port or host"]
    return []


def _directory(directory: Path) -> list[str]:
    existing = next((folder for folder in (directory, *directory.absolute().parents) if folder.exists()), Path("/"))
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    return [f"storage.directory: {directory} cannot be written by this user; give its folder to it or name another"]


def _files(config: Config) -> list[str]:
    faults = []
    for key in ("certificate", "key", "ca"):
        name = getattr(config.tls, key)
        if name and not os.access(name, os.R_OK):
            faults.append(f"tls.{key}: {name} cannot be read; check the path and its owner")
    if bool(config.tls.certificate) != bool(config.tls.key):
        faults.append("tls: certificate and key belong together; name both or neither")
    if config.tls.certificate and config.tls.require_client_certificate and not config.tls.ca:
        faults.append("tls.ca: needed to check the certificates of peers; name it, or require none of them")
    if not faults:
        try:
            tls_context(config.tls)
        except ConfigError as error:
            faults.append(str(error))
    return faults


def _model(config: Config) -> list[str]:
    if config.encoder.type != "common-subspace":    # somebody's own class: it alone knows what it loads
        return []
    try:
        require(config.encoder.runtime, config.encoder.device)
    except EncodersError as error:
        return [str(error)]
    try:
        model_info(Path(config.encoder.checkpoint) if config.encoder.checkpoint else None)
    except EncodersError as error:
        return [f"encoder.checkpoint: {error}"]
    return []


def check(config: Config) -> list[str]:
    """Return one sentence for each fault, none when the service can be started."""
    closed = _directory(config.storage.directory)
    faults = _own_daemon() + closed + _files(config) + _model(config)
    if config.ingest.port and (config.ingest.host, config.ingest.port) == (config.similar.host, config.similar.port):
        faults.append("ingest.port and similar.port are the same; each application entity needs its own")
    running = set() if closed else {beat["role"] for beat in heartbeats(config.storage.directory)}
    for role, name, section in (("listener", "ingest", config.ingest), ("finder", "similar", config.similar)):
        if role not in running:                     # else it is the service itself that has the port
            faults += _port(f"{name}.port", section.host, section.port)
    for number, peer in enumerate(config.peers):
        if peer.ae_title == "*" and not peer.address:
            faults.append(f"peers.{number}: any title from any address may {', '.join(peer.rights)}; name one of them")
    return faults


def check_parts(config: Config) -> list[str]:
    """Return one sentence for each part that cannot be had: catalogue, index engine, encoder, device.

    Imports their libraries.
    A role that starts says the same; who only looks at the configuration wants to know before.
    """
    from encoders.registry import ENCODERS, factory_of
    from storage.base import StorageError
    from storage.catalogue import look_at
    from storage.index.registry import engine

    faults = []
    try:
        if config.catalogue.url:
            look_at(config.catalogue.url)
    except StorageError as error:
        faults.append(str(error))
    try:
        engine(config.index.type)
    except StorageError as error:
        faults.append(str(error))
    try:
        if config.encoder.type not in ENCODERS:
            factory_of(config.encoder.type)
        if config.encoder.device not in ("cpu", "auto"):
            from encoders.common_subspace import chosen_device

            chosen_device(config.encoder.device)
    except EncodersError as error:
        faults.append(str(error))
    return faults
