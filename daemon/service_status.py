"""What ``cxrfind status`` says: read from the role's heartbeats, the spool and the catalogue; asks no process."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.config import Config
from daemon.roles import ROLES, process_counts, read_heartbeat
from storage.base import StorageError
from storage.catalogue import open_catalogue
from storage.spool import Spool

#: A role writes its heartbeat every second; older than this and it hangs or is gone.
FRESH_S = 10.0


def _alive(heartbeat: Mapping[str, Any]) -> bool:
    try:
        os.kill(int(heartbeat["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError):
        return False
    except PermissionError:                         # another user's process: it is there
        pass
    return time.time() - float(heartbeat.get("at", 0.0)) < FRESH_S


def heartbeats(directory: Path) -> list[dict[str, Any]]:
    """Return the heartbeats of the roles that are alive, each with its ``role``."""
    found = []
    for path in sorted((directory / "run").glob("*.json")):
        role = path.stem.split("-")[0]
        if role not in ROLES:
            continue
        heartbeat = read_heartbeat(path)
        if _alive(heartbeat):
            found.append({**heartbeat, "role": role})
    return found


def collect(config: Config) -> dict[str, Any]:
    """Return the facts about the service that uses this configuration's storage directory.

    Returns
    -------
    dict
        ``ready`` (bool), ``starting`` (roles that run and are not ready yet), ``model_id``, ``generation``,
        ``images_searchable``, ``reports_searchable``, ``studies``, ``spool_depth``, ``gated``, ``quarantined`` and
        more; numbers are 0 where nothing is kept yet.
    """
    from encoders.base import EncodersError
    from encoders.checkpoint import model_info

    directory = config.storage.directory
    alive = heartbeats(directory)
    finders = [beat for beat in alive if beat["role"] == "finder"]
    finder = min(finders, key=lambda beat: beat.get("sequence", 0), default={})     # the one that is furthest behind
    running = {role: sum(beat["role"] == role for beat in alive) for role in ROLES}
    wanted = process_counts(config)
    facts: dict[str, Any] = {
        "starting": sorted({beat["role"] for beat in alive if not beat.get("ready")}),
        "ready": all(running[role] >= wanted[role] for role in ROLES) and all(beat.get("ready") for beat in alive),
        "model_id": finder.get("model_id", ""),
        "runtime": ", ".join(sorted({beat["runtime"] for beat in alive if beat.get("runtime")})),
        "generation": finder.get("generation", 0),
        "images_searchable": finder.get("images_searchable", 0),
        "reports_searchable": finder.get("reports_searchable", 0),
        "studies": 0,
        "instances": 0,
        "spool_depth": 0,
        "gated": 0,
        "quarantined": 0,
        "hidden": 0,
        "sequence": 0,
        "index_sequence": finder.get("sequence", 0),
        "index_partial": any(beat.get("index_partial", False) for beat in finders),
        "recall_at_10": min(
            (recall for beat in finders if (recall := beat.get("last_recall")) is not None), default=None
        ),
        "studies_kept": finder.get("studies_kept"),
        "processes": running,
        "processes_configured": wanted,
        "directory": str(directory.absolute()),
    }
    if not facts["model_id"]:
        try:
            checkpoint = Path(config.encoder.checkpoint) if config.encoder.checkpoint else None
            facts["model_id"] = model_info(checkpoint).model_id
        except EncodersError as error:
            facts["model_error"] = str(error)
    database = directory / "catalogue.db"
    if config.catalogue.url or database.exists():
        try:
            catalogue = open_catalogue(config.catalogue.url or database)
            facts |= {name: count for name, count in catalogue.counts().items() if name in facts and not facts[name]}
            facts["sequence"] = catalogue.sequence()
            active = catalogue.active_generation()
            if active and not facts["generation"]:
                facts["generation"] = active.generation_id
        except StorageError as error:
            facts |= {"ready": False, "catalogue_error": str(error)}
    if (directory / "spool").exists():
        spool = Spool(directory / "spool")
        facts["spool_depth"] = spool.depth()
        facts["quarantined"] = len(spool.quarantined())
    return facts


def as_json(facts: Mapping[str, Any]) -> str:
    """Return one JSON object."""
    return json.dumps(facts, indent=2)


def as_text(facts: Mapping[str, Any]) -> str:
    """Return the facts for a person, one a line."""
    shown = dict(facts)
    processes, wanted = shown.pop("processes"), shown.pop("processes_configured")
    state = "ready" if shown.pop("ready") else "not ready"
    starting = shown.pop("starting")
    missing = [
        role if not processes[role] else f"{role} {processes[role]} of {wanted[role]}"
        for role in ROLES if processes[role] < wanted[role]
    ]  # fmt: skip
    why = [f"{what}: {', '.join(which)}" for what, which in (("not running", missing), ("starting", starting)) if which]
    lines = [f"cxrfind is {state}" + (f" ({'; '.join(why)})" if why else "")]
    lines += [f"  {name.replace('_', ' '):20} {value}" for name, value in shown.items() if value is not None]
    return "\n".join(lines)
