"""``cxrfind demo``: the real service on loopback, real C-STORE in, real C-FIND out, and nothing left running."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from rich.console import Console
from rich.table import Table

from daemon import service_status, transfer
from daemon.config import Config, load
from daemon.finder import private
from daemon.finder.pictures import write_picture
from encoders.base import ABNORMAL_FINDINGS
from storage.base import Catalogue, StudyRecord
from storage.catalogue import open_catalogue
from storage.renditions import Renditions

START_TIMEOUT_S = 120.0
STALL_TIMEOUT_S = 180.0
FREE_BYTES_NEEDED = 1_000_000_000
RESULTS = 8


class DemoFailed(click.ClickException):
    """The demo cannot go on; the message is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a ranked table."""

    rank: int
    score: float
    study_instance_uid: str
    best_sop_instance_uid: str


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(data: Path) -> dict[str, str]:
    """Return the service's environment: ports that are free, unless they were set by hand."""
    environment = dict(os.environ)
    environment.setdefault("CXRFIND_INGEST__PORT", str(_free_port()))
    environment.setdefault("CXRFIND_SIMILAR__PORT", str(_free_port()))
    environment["CXRFIND_STORAGE__DIRECTORY"] = str(data)
    environment["CXRFIND_LOG__FORMAT"] = "json"
    environment.setdefault("CXRFIND_STORAGE__MIN_FREE_BYTES", "100000000")
    return environment


def _check_ports(config: Config) -> None:
    for title, section in (("ingest", config.ingest), ("similar", config.similar)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((section.host, section.port))
            except OSError as error:
                raise DemoFailed(
                    f"port {section.port} cannot be used ({error.strerror}); "
                    f"choose another with CXRFIND_{title.upper()}__PORT, or unset it to let the demo choose"
                ) from error


@contextmanager
def _service(config: Config, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run ``cxrfind run`` until the block ends; raise DemoFailed with its own words when it does not come up."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon", "run"], env=environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not service_status.collect(config)["ready"]:
            if process.poll() is not None:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["no output"]
                raise DemoFailed(f"the service ended at once ({last[0][:300]}); its log is {log}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"the service was not ready within {START_TIMEOUT_S:.0f} s; its log is {log}")
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_searchable(config: Config) -> dict[str, Any]:
    """Show how the spool empties; return the status when the index has caught up with the catalogue."""
    with transfer.progress_bar("encoding and indexing") as move:
        last_change, before, facts = time.monotonic(), None, service_status.collect(config)
        total = max(1, facts["instances"] + facts["spool_depth"] + facts["quarantined"])
        while facts["spool_depth"] or facts["index_sequence"] < facts["sequence"]:
            now = (facts["spool_depth"], facts["index_sequence"])
            if now != before:
                last_change, before = time.monotonic(), now
            if time.monotonic() - last_change > STALL_TIMEOUT_S:
                raise DemoFailed(f"nothing was indexed for {STALL_TIMEOUT_S:.0f} s; see the service's log")
            move(max(0, total - facts["spool_depth"]), total)
            time.sleep(0.2)
            facts = service_status.collect(config)
        move(total, total)
    return facts


def _find(config: Config, keys: dict[str, Any], private_keys: dict[str, Any]) -> list[Row]:
    """Ask the similar AE by C-FIND; return its rows in the order of its answers."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = ""
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    for name, value in {"Rank": None, "Score": None, "BestMatchSOPInstanceUID": None, **private_keys}.items():
        private.add(identifier, name, value)
    ae = AE(ae_title="CXRFIND-DEMO")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate(config.similar.host, config.similar.port, ae_title=config.similar.ae_title)
    if not association.is_established:
        raise DemoFailed("the similar AE did not accept the association; see the service's log")
    rows = []
    try:
        for status, answer in association.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind):
            if status.Status not in (0x0000, 0xFF00, 0xFF01):
                raise DemoFailed(f"C-FIND answered 0x{status.Status:04X} {status.get('ErrorComment', '')}")
            if answer is not None:
                rows.append(
                    Row(
                        rank=int(private.get(answer, "Rank")),
                        score=float(private.get(answer, "Score")),
                        study_instance_uid=str(answer.StudyInstanceUID),
                        best_sop_instance_uid=str(private.get(answer, "BestMatchSOPInstanceUID") or ""),
                    )
                )
    finally:
        association.release()
    return rows


def _excerpt(study: StudyRecord) -> str:
    if study.report is None:
        return "(no report)"
    text = " ".join((study.report.impression or study.report.findings or study.report.text).split())
    return text if len(text) <= 110 else text[:109] + "…"


def print_table(title: str, rows: Sequence[Row], catalogue: Catalogue, console: Console) -> None:
    """Print a ranked table: rank, score, study, findings, report excerpt."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    table.add_column("study", overflow="fold", max_width=22)
    table.add_column("findings", overflow="fold")
    table.add_column("report", overflow="fold")
    studies = catalogue.studies([row.study_instance_uid for row in rows])
    for row in rows:
        study = studies[row.study_instance_uid]
        table.add_row(
            str(row.rank), f"{row.score:.2f}", f"…{row.study_instance_uid[-18:]}",
            ", ".join(study.findings_present) or "-", _excerpt(study),
        )
    console.print(table)
    if not rows:
        console.print("  (no study matches)")


def _value(study: StudyRecord, tag: str) -> str:
    values = study.attributes.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _choose_example(catalogue: Catalogue) -> StudyRecord:
    """Return a study to ask with: indexed, preferably abnormal, with one of the commoner sets of findings."""
    matches, _ = catalogue.find("STUDY", {}, 2000)
    uids = [str(match["0020000D"]["Value"][0]) for match in matches]
    studies = [study for study in catalogue.studies(uids).values() if catalogue.rendition_of(study.study_instance_uid)]
    if not studies:
        raise DemoFailed("no chest radiograph was indexed, so there is nothing to search; send CR or DX chest images")

    def abnormal(study: StudyRecord) -> tuple[str, ...]:
        return tuple(name for name in study.findings_present if name in ABNORMAL_FINDINGS)

    common = Counter(name for study in studies for name in abnormal(study))
    return max(studies, key=lambda study: (study.report is not None, sum(common[name] for name in abnormal(study))))


def _ask(config: Config, catalogue: Catalogue, out: Path, console: Console) -> None:
    example = _choose_example(catalogue)
    uid = example.study_instance_uid
    found = ", ".join(example.findings_present) or "none"
    console.print(f"\nExample: study …{uid[-18:]}, findings: {found}\n         {_excerpt(example)}\n")
    rows = _find(config, {}, {"QueryUID": uid, "MaxResults": RESULTS})
    print_table("1. Studies like the example (QueryUID)", rows, catalogue, console)

    abnormal = [name for name in example.findings_present if name in ABNORMAL_FINDINGS]
    text = f"{abnormal[0].lower()}" if abnormal else "no acute cardiopulmonary abnormality"
    print_table(
        f'2. Studies for the text "{text}" (QueryText)',
        _find(config, {}, {"QueryText": text, "MaxResults": RESULTS}), catalogue, console,
    )

    date, sex = _value(example, "00080020"), _value(example, "00100040")
    keys = {"StudyDate": f"{int(date[:4]) - 4}0101-{int(date[:4]) + 4}1231"} if date[:4].isdigit() else {}
    keys |= {"PatientSex": sex} if sex else {}
    filters = ", ".join(f"{keyword} {value}" for keyword, value in keys.items()) or "the dates and sex are not known"
    print_table(
        f"3. Studies like the example, filtered: {filters}",
        _find(config, keys, {"QueryUID": uid, "MaxResults": RESULTS}), catalogue, console,
    )
    picture = out / "query.png"
    write_picture(
        picture, catalogue, Renditions(config.storage.directory / "renditions"), uid,
        [(row.rank, row.score, row.study_instance_uid, row.best_sop_instance_uid) for row in rows[:5]],
    )
    console.print(f"\nThe example beside its best matches: {picture}")


def run(dicom: Path | None, studies: int, out: Path) -> int:
    """Run the whole demo in folder `out`; return 0. Raises DemoFailed (one sentence) when something is in the way."""
    console = Console()
    out = out.absolute()
    if (out / "data").exists():
        shutil.rmtree(out / "data")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoFailed(f"{out} cannot be made ({error.strerror}); name another folder with --out") from error
    free = shutil.disk_usage(out).free
    if free < FREE_BYTES_NEEDED:
        raise DemoFailed(f"{free // 1_000_000} MB free in {out}, but the demo needs 1 GB; free some disk space")
    environment = _environment(out / "data")
    os.environ.update(environment)
    config = load()
    _check_ports(config)
    folder = dicom or out / "dicom"
    if dicom is None:
        shutil.rmtree(folder, ignore_errors=True)
        transfer.simulate(studies, 7, folder, None, "1024x1024", "mixed", None, None, quiet=False)
    with _service(config, environment, out / "cxrfind.log"):
        facts = service_status.collect(config)
        console.print(f"service ready: {config.ingest.ae_title} on port {config.ingest.port}, "
                      f"{config.similar.ae_title} on port {config.similar.port}, model {facts['model_id']}")
        peer = (config.ingest.ae_title, config.ingest.host, config.ingest.port)
        transfer.send(folder, peer, "CXRFIND-DEMO", quiet=False)
        facts = _wait_until_searchable(config)
        console.print(f"searchable: {facts['images_searchable']} images and {facts['reports_searchable']} reports "
                      f"of {facts['studies']} studies; {facts['gated']} kept out, {facts['quarantined']} quarantined")
        _ask(config, open_catalogue(config.catalogue.url or config.storage.directory / "catalogue.db"), out, console)
    console.print("service stopped; research use only, not a diagnostic device")
    return 0
