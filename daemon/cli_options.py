"""What several commands share: the configuration's file, and a peer's address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="CXRFIND_CONFIG",
    help="TOML file (cxrfind init writes one); also CXRFIND_CONFIG. Without it: defaults, loopback peers only.",
)


class Peer(click.ParamType[tuple[str, str, int]]):
    """``AE@host:port``."""

    name = "AE@host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, int]:
        title, at, address = str(value).partition("@")
        host, colon, port = address.rpartition(":")
        if not (title and at and host and colon and port.isdigit() and 0 < int(port) < 65536 and len(title) <= 16):
            self.fail(f"{value!r} is not AE@host:port, for instance CXRFIND@127.0.0.1:11112", param, ctx)
        return title, host.strip("[]"), int(port)
