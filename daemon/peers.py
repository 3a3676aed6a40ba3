"""Who calls, and what the configuration lets it do: rights by AE title, address and certificate."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.config import PeerSection, Right


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: its AE title, IP address and, with TLS, the sha256 (hex) of its certificate."""

    ae_title: str
    address: str
    certificate_sha256: str = ""


def _same_address(configured: str, address: str) -> bool:
    try:
        given = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped:
            given = given.ipv4_mapped
        return given in ipaddress.ip_network(configured, strict=False)
    except ValueError:
        return False


def peer_sections(peers: Sequence[PeerSection], caller: Caller) -> list[PeerSection]:
    """Return the peer sections that fit a caller's title, address and certificate."""
    return [
        peer
        for peer in peers
        if peer.ae_title in ("*", caller.ae_title.strip())
        and (not peer.address or _same_address(peer.address, caller.address))
        and (
            not peer.certificate_sha256
            or peer.certificate_sha256.replace(":", "").lower() == caller.certificate_sha256.lower()
        )
    ]


def rights_of(
    peers: Sequence[PeerSection], calling_ae_title: str, address: str, certificate_sha256: str = ""
) -> frozenset[Right]:
    """Return what a caller may do: the rights of every peer section that fits it."""
    sections = peer_sections(peers, Caller(calling_ae_title, address, certificate_sha256))
    return frozenset(right for peer in sections for right in peer.rights)


def may(
    peers: Sequence[PeerSection], calling_ae_title: str, address: str, right: Right, certificate_sha256: str = ""
) -> bool:
    """Return whether a caller has a right."""
    return right in rights_of(peers, calling_ae_title, address, certificate_sha256)


def caller_of(assoc: Any) -> Caller:
    """Return who is at the other end of an accepted (or requested) association."""
    certificate = ""
    if isinstance(assoc.dul.socket.socket, ssl.SSLSocket):
        der = assoc.dul.socket.socket.getpeercert(binary_form=True)
        certificate = hashlib.sha256(der).hexdigest() if der else ""
    title = assoc.requestor.ae_title or (assoc.requestor.primitive and assoc.requestor.primitive.calling_ae_title) or ""
    return Caller(title.strip(), assoc.requestor.address_info.address, certificate)
