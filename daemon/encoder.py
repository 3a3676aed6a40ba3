"""The configured model, for every role and command that needs one."""

from __future__ import annotations

from pathlib import Path

from daemon.config import Config
from encoders.base import Encoder
from encoders.registry import load_encoder
from encoders.runtimes import RuntimeChoice


def configured_encoder(config: Config, checkpoint: Path | None = None) -> Encoder:
    """Return the encoder that the configuration names, or that of another checkpoint."""
    chosen = checkpoint or (Path(config.encoder.checkpoint) if config.encoder.checkpoint else None)
    runtime = RuntimeChoice(config.encoder.runtime, config.encoder.precision, config.storage.directory / "runtime")
    return load_encoder(config.encoder.type, chosen, config.encoder.device, config.encoder.threads, runtime)


def runtime_of(encoder: Encoder) -> str:
    """Return what an encoder computes images with, "" when it does not tell (somebody's own class)."""
    return str(getattr(encoder, "runtime", ""))
