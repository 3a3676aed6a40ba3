"""Configuration: one TOML file, every key also from the environment (``CXRFIND_INGEST__PORT``); all of it checked."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

Right = Literal["store", "query", "text", "mode_c", "retrieve"]

ENV_PREFIX = "CXRFIND_"


class ConfigError(Exception):
    """The configuration cannot be used; the message names its source, the key and the cure."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AeSection(_Section):
    """One application entity."""

    ae_title: str = Field(max_length=16, min_length=1, description="called AE title; any other one is rejected")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(ge=0, le=65535, description="TCP port")
    maximum_associations: int = Field(64, ge=1, description="associations at once in all")
    maximum_associations_per_address: int = Field(32, ge=1, description="associations at once from one address")
    acse_timeout_s: float = Field(5.0, gt=0, description="a peer that says nothing for this long is dropped (ARTIM)")
    network_timeout_s: float = Field(60.0, gt=0, description="an association idle for this long is ended")

    @field_validator("ae_title")
    @classmethod
    def _title(cls, value: str) -> str:
        if value != value.strip() or not re.fullmatch(r"[\x20-\x7e]+", value) or "\\" in value:
            raise ValueError("an AE title is 1 to 16 ASCII characters without backslash (PS3.5, VR AE)")
        return value


class IngestSection(AeSection):
    """C-STORE in."""

    ae_title: str = Field("CXRFIND", max_length=16, min_length=1, description="called AE title of the C-STORE service")
    port: int = Field(11112, ge=0, le=65535, description="TCP port of the C-STORE service")
    processes: int = Field(1, ge=1, le=16, description="listener processes sharing the port (SO_REUSEPORT)")


class SimilarSection(AeSection):
    """Similarity C-FIND."""

    ae_title: str = Field("CXRSIMILAR", max_length=16, min_length=1, description="called AE title of the query service")
    port: int = Field(11113, ge=0, le=65535, description="TCP port of the query service")
    default_results: int = Field(20, ge=1, description="matches when MaxResults is not given")
    maximum_results: int = Field(200, ge=1, description="never more matches than this for one similarity query")
    maximum_exact_results: int = Field(5000, ge=1, description="never more answers than this for one plain C-FIND")
    retrieve_ae_title: str = Field(
        "", max_length=16, description="RetrieveAETitle of the answers: the PACS that holds the originals; empty: ours"
    )


class StorageSection(_Section):
    """Where everything is kept."""

    directory: Path = Field(Path("cxrfind-data"), description="folder of the spool, catalogue, renditions, index")
    keep_originals: bool = Field(
        True, description="keep received objects after encoding, for C-MOVE and C-GET; false: the PACS has them"
    )
    min_free_bytes: int = Field(2_000_000_000, ge=0, description="below this much free disk C-STORE answers A700")
    max_used_percent: float = Field(97.0, gt=0, le=100, description="with more of the disk used C-STORE answers A700")
    max_spool_depth: int = Field(200_000, ge=1, description="with more objects waiting C-STORE answers A700")
    rendition_short_side: int = Field(512, ge=224, description="pixels of the short side of what is kept to look at")


class CatalogueSection(_Section):
    """The only truth."""

    url: str = Field("", description="SQLAlchemy URL; empty: catalogue.db in the storage directory")


class IndexSection(_Section):
    """The vector index."""

    type: str = Field("hnsw", description="hnsw, exact, or module:Class")
    m: int = Field(16, ge=4, le=96, description="hnswlib M: links a node")
    ef_construction: int = Field(128, ge=16, description="hnswlib efConstruction")
    ef_search: int = Field(128, ge=10, description="hnswlib ef: larger finds more and takes longer; raised by probes")
    snapshot_interval_s: float = Field(300.0, gt=0, description="how often a changed index is written to disk")
    recall_probe_interval_s: float = Field(3600.0, gt=0, description="how often it is compared with exact search")


class EncoderSection(_Section):
    """The model."""

    type: str = Field("common-subspace", description="common-subspace, or module:Class")
    checkpoint: str = Field("", description="folder of the checkpoint; empty: the one shipped with cxrfind")
    device: str = Field("cpu", description="torch device; auto: cuda when there is one")
    threads: int = Field(0, ge=0, description="threads of torch or the runtime; 0: as many as there are cores")
    runtime: Literal["torch", "openvino", "onnxruntime", "auto"] = Field(
        "torch", description="what computes images; auto: the fastest installed one that agrees with torch"
    )
    precision: Literal["auto", "f32", "mixed", "bf16"] = Field(
        "auto",
        description="of openvino; bf16 needs a CPU with it, and so does mixed, bf16 after the early layers; auto: the "
        "fastest that agrees with torch",
    )


class WorkerSection(_Section):
    """Reading and encoding."""

    processes: int = Field(1, ge=1, le=64, description="worker processes, each with its own copy of the model")
    readers: int = Field(0, ge=0, le=64, description="decoder processes a worker; 0: one for each core, at most 8")
    batch_size: int = Field(16, ge=1, le=1024, description="images encoded at once")
    read_timeout_s: float = Field(60.0, gt=0, description="an object that takes longer to decode counts as a crash")
    reader_memory_bytes: int = Field(4_000_000_000, ge=0, description="address space of a decoder; 0: no limit")
    poll_interval_s: float = Field(0.1, gt=0, description="how often an idle worker looks into the spool")


class FinderSection(_Section):
    """Following the Catalogue and answering."""

    processes: int = Field(
        1, ge=1, le=16, description="finder processes sharing the port (SO_REUSEPORT), each with model and index"
    )
    poll_interval_s: float = Field(0.2, gt=0, description="how often the finder asks the Catalogue for changes")
    kept_studies: int = Field(
        500_000, ge=0, description="studies whose answers are kept in memory, 0.9 kB each (1.7 for four sets of keys)"
    )


class PeerSection(_Section):
    """A calling application entity and what it may do."""

    ae_title: str = Field(max_length=16, min_length=1, description="calling AE title; * for any")
    address: str = Field("", description="its IP address; empty: any address")
    port: int = Field(0, ge=0, le=65535, description="its own port, for C-MOVE and commitment reports; 0: none")
    rights: tuple[Right, ...] = Field(("store", "query", "text", "retrieve"), description="what it may ask for")
    certificate_sha256: str = Field("", description="with TLS: fingerprint of its certificate; empty: any trusted one")


class TlsSection(_Section):
    """TLS on both ports (PS3.15 B.9, BCP 195 profile) when a certificate is named."""

    certificate: str = Field("", description="PEM file with our certificate chain; empty: no TLS")
    key: str = Field("", description="PEM file with our private key")
    ca: str = Field("", description="PEM file with the authorities that peers' certificates must come from")
    require_client_certificate: bool = Field(True, description="refuse peers without a certificate")


class LogSection(_Section):
    """Logs: structlog, one line per unit of work, never patient data."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is written")
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    ingest: IngestSection = IngestSection()
    similar: SimilarSection = SimilarSection()
    storage: StorageSection = StorageSection()
    catalogue: CatalogueSection = CatalogueSection()
    index: IndexSection = IndexSection()
    encoder: EncoderSection = EncoderSection()
    worker: WorkerSection = WorkerSection()
    finder: FinderSection = FinderSection()
    tls: TlsSection = TlsSection()
    log: LogSection = LogSection()
    peers: tuple[PeerSection, ...] = Field(
        (PeerSection(ae_title="*", address="127.0.0.1"),),
        description="who may do what; without any, loopback peers may store and query",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings


def _line_of(text: str, location: tuple[Any, ...]) -> int | None:
    """Return the line (from 1) of a TOML key given as ("ingest", "port") or ("peers", 0, "rights")."""
    *sections, key = [str(part) for part in location if isinstance(part, str)]
    block = next((part for part in location if isinstance(part, int)), 0)
    current, blocks, header_line = "", -1, None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]", line)
        if header:
            current = header[1]
            if [current] == sections or (not sections and current == key):
                blocks += 1
                if blocks == block:
                    header_line = number
        elif re.match(rf"\s*{re.escape(key)}\s*=", line) and [current] == (sections or [""]) and blocks in (block, -1):
            return number
    return header_line


def _explain(error: ValidationError, source: str, text: str) -> str:
    sentences = []
    for fault in error.errors():
        location = tuple(part for part in fault["loc"])
        key = ".".join(str(part) for part in location)
        variable = ENV_PREFIX + "__".join(str(part) for part in location).upper()
        if variable in {name.upper() for name in os.environ}:
            where = f"environment variable {variable}"
        else:
            line = _line_of(text, location)
            where = f"{source}, line {line}, key {key}" if line else f"{source}, key {key}"
        if fault["type"] == "extra_forbidden":
            parent: Any = Config
            for part in location[:-1]:
                annotation = parent.model_fields[part].annotation if isinstance(part, str) else parent
                parent = PeerSection if part == "peers" else annotation
            names = ", ".join(sorted(parent.model_fields))
            sentences.append(f"{where}: there is no such key; the keys here are: {names}")
        else:
            given = fault.get("input")
            shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
            sentences.append(f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}{shown}")
    return "\n".join(sentences)


def load(path: Path | None = None) -> Config:
    """Return the configuration of a TOML file (or of nothing) and the environment.

    Raises
    ------
    ConfigError
        With one line per fault: source, line or key, and the cure.
    """
    text, values, source = "", {}, "the configuration"
    if path is not None:
        source = str(path)
        try:
            text = path.read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); name another file with --config") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    known = {name.upper() for name in Config.model_fields}
    for variable in os.environ:
        if variable.upper().startswith(ENV_PREFIX):
            section = variable.upper()[len(ENV_PREFIX):].split("__")[0]
            if section not in known and "__" in variable:
                raise ConfigError(f"environment variable {variable}: there is no section {section.lower()!r}")
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, text)) from error
    except SettingsError as error:                  # a variable of a whole section
        name = (re.search(r'"(\w+)"', str(error)) or ["", "SECTION"])[1].upper()
        raise ConfigError(
            f"environment variable {ENV_PREFIX}{name}: not valid JSON; set its keys one by one: {ENV_PREFIX}{name}__KEY"
        ) from error


__all__ = ["Config", "ConfigError", "PeerSection", "Right", "load"]
