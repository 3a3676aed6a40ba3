"""The commented configuration that ``cxrfind init`` writes, made from the configuration's own types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from daemon.config import Config, PeerSection

_HEAD = """\
# cxrfind configuration. Every line that is commented out shows the default.
# Check it with: cxrfind check-config --config THIS_FILE
# Each key can also be set from the environment, which wins: [ingest] port is CXRFIND_INGEST__PORT.
"""

_PEERS = """
# Who may do what. With no [[peers]] at all, any AE title on the loopback address may store and query; as soon as one
# is given, only those that are given may. One block for each peer:
"""


def _value(value: Any) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, float):
        return repr(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _limits(info: FieldInfo) -> str:
    choices = [str(choice) for choice in get_args(info.annotation) if isinstance(choice, str)]
    return f" ({', '.join(choices)})" if choices else ""


def _section(model: BaseModel) -> list[str]:
    lines = []
    for name, info in type(model).model_fields.items():
        lines += [f"# {info.description}{_limits(info)}", f"#{name} = {_value(getattr(model, name))}"]
    return lines


def example_config(directory: Path | None = None) -> str:
    """Return a TOML text that names every section and key with its meaning and default, all commented out.

    Parameters
    ----------
    directory : Path or None
        Set as the storage directory, made absolute.
    """
    defaults = Config.model_construct()
    lines = [_HEAD.rstrip()]
    for name in Config.model_fields:
        section = getattr(defaults, name)
        if isinstance(section, BaseModel):
            lines += ["", f"# {(type(section).__doc__ or '').strip()}", f"[{name}]", *_section(section)]
    lines += [_PEERS.rstrip(), "#[[peers]]"]
    lines += _section(PeerSection(ae_title="PACS", address="192.0.2.10", port=104))
    if directory is not None:
        at = lines.index(f"#directory = {_value(defaults.storage.directory)}")
        lines[at] = f"directory = {_value(directory.absolute())}"
    return "\n".join(lines) + "\n"
