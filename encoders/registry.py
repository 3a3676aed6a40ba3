"""From a name in the configuration to an Encoder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from encoders.base import CheckpointError, Encoder, EncodersError
from encoders.runtimes import OPTIONAL, TORCH, RuntimeChoice, RuntimeUnusable

EncoderFactory = Callable[[Path | None, str, int], Encoder]
BuiltIn = Callable[[Path | None, str, int, RuntimeChoice], Encoder]


class UnknownEncoder(EncodersError):
    """The configured encoder type cannot be found; the message lists what there is."""


def _common_subspace(checkpoint: Path | None, device: str, threads: int, runtime: RuntimeChoice) -> Encoder:
    from encoders.common_subspace import CommonSubspaceEncoder

    return CommonSubspaceEncoder.load(checkpoint, device, threads, runtime)


#: Built-in encoders by their name in the configuration.
ENCODERS: dict[str, BuiltIn] = {"common-subspace": _common_subspace}


def factory_of(type: str) -> EncoderFactory:
    """Return what makes an encoder that is none of ENCODERS: ``module:Class``.

    Raises
    ------
    UnknownEncoder
        If there is no such encoder.
    """
    module_name, _, attribute = type.partition(":")
    if not attribute:
        raise UnknownEncoder(f"there is no encoder {type!r}; known: {', '.join(ENCODERS)}, or module:Class")
    try:
        factory: EncoderFactory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownEncoder(f"encoder {type!r} cannot be imported: {error}; install it in cxrfind's venv") from error
    return factory


def load_encoder(
    type: str = "common-subspace",
    checkpoint: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
    runtime: RuntimeChoice = TORCH,
) -> Encoder:
    """Return an encoder, its weights verified.

    Parameters
    ----------
    type : str
        A row of ENCODERS, or ``module:Class``, which is called with checkpoint, device and threads.
    checkpoint : Path or None
        Its folder; None for the model shipped with cxrfind.
    device : str
        A torch device; ``auto``: CUDA when there is one.
    threads : int
        Threads of torch and of the runtime; 0 for as many as there are cores.
    runtime : RuntimeChoice
        What computes images, for built-in encoders.

    Raises
    ------
    UnknownEncoder
        If there is no such encoder.
    CheckpointError
        If the checkpoint is missing or damaged.
    RuntimeUnusable
        If the runtime is not installed, or the encoder is not a built-in one and chooses for itself.
    """
    if type in ENCODERS:
        return ENCODERS[type](checkpoint, device, threads, runtime)
    if runtime.name in OPTIONAL:
        raise RuntimeUnusable(
            f'encoder.runtime = "{runtime.name}" is for {", ".join(ENCODERS)}, not for {type!r}; leave it out'
        )
    return factory_of(type)(checkpoint, device, threads)


__all__ = ["ENCODERS", "CheckpointError", "UnknownEncoder", "load_encoder"]
