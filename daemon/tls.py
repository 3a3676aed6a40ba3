"""TLS for both application entities (PS3.15 B.9 and B.10: the BCP 195 profiles)."""

from __future__ import annotations

import ssl

from daemon.config import ConfigError, TlsSection


def tls_context(tls: TlsSection) -> ssl.SSLContext | None:
    """Return the server's TLS context (PS3.15 B.9 and B.10: BCP 195), or None when no certificate is configured.

    Raises
    ------
    ConfigError
        When the files cannot be used.
    """
    if not tls.certificate:
        return None
    if tls.require_client_certificate and not tls.ca:
        raise ConfigError("tls.require_client_certificate needs tls.ca: a PEM file of authorities, or set it to false")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM")
    try:
        context.load_cert_chain(tls.certificate, tls.key or None)
        if tls.ca:
            context.load_verify_locations(tls.ca)
            context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"tls.certificate, tls.key or tls.ca is no good ({error}): check the PEM files") from error
    return context


def tls_client(tls: TlsSection, host: str) -> tuple[ssl.SSLContext, str] | None:
    """Return pynetdicom's `tls_args` for an association that we open; None when no certificate is configured."""
    if not tls.certificate:
        return None
    context = ssl.create_default_context(cafile=tls.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False                  # peers are configured by address; their certificate must be trusted
    context.load_cert_chain(tls.certificate, tls.key or None)
    return context, host
