"""What computes the image side of a model: torch itself, or a faster runtime of the same checkpoint.

::

    model --graph.ImageGraph--> torch --exported once--> ONNX file --> OpenVINO | ONNX Runtime
                                  |                                        |
                                  +------------ choosing.choose -----------+      before the first image, at every start

A runtime is one class in `engines` and one name in OPTIONAL. Texts and explanations stay on torch.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from encoders.base import EncodersError, Float32

# Both packages send usage data to their makers and keep an identifier below the home folder, unless this is done before
# they are imported; a machine beside a PACS tells nobody anything. ONNX Runtime 1.29 and later: microsoft/onnxruntime
# pull request 27379. OpenVINO reports its own import, and keeps quiet where openvino-telemetry is not installed.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]    # for the import system: not installed

#: Pooled features (n, channels), embeddings (n, dim), logits of the findings (n, 14) and of the view (n, 1).
Outputs = tuple[Float32, Float32, Float32, Float32]

#: Runtimes beside torch: each name is that of its package and of our extra.
OPTIONAL = ("openvino", "onnxruntime")


class RuntimeUnusable(EncodersError):
    """The configured runtime cannot be used here; the message says what to install or to set."""


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """What the configuration wants.

    Attributes
    ----------
    name : str
        ``torch``, one of OPTIONAL, or ``auto``: the fastest of all that are installed and agree with torch.
    precision : str
        ``f32``, ``bf16``, ``mixed`` (bf16 after the early layers), or ``auto``: the fastest that agrees with torch.
        Torch always computes in f32.
    cache : Path
        Folder of exported models, made when there is none.
    """

    name: str = "torch"
    precision: str = "auto"
    cache: Path = Path("cxrfind-data/runtime")


TORCH = RuntimeChoice()


class Engine(Protocol):
    """Computes a model's image side; safe to call from several threads.

    Attributes
    ----------
    name : str
        Runtime and precision, for logs and ``cxrfind status``: ``openvino f32``.
    """

    name: str

    def __call__(self, inputs: Float32) -> Outputs:
        """Compute standardised images, float32 (n, 1, size, size)."""


def missing_packages(runtime: str) -> tuple[str, ...]:
    """Return what is not installed of what an optional runtime needs; looks for it without importing it."""
    return tuple(name for name in (runtime, "onnx", "onnxscript") if find_spec(name) is None)


def require(runtime: str, device: str = "cpu") -> None:
    """Do nothing when a configured runtime is installed and can use the configured device.

    Raises
    ------
    RuntimeUnusable
        Which says what to install or to set.
    """
    if runtime not in OPTIONAL:
        return
    missing = missing_packages(runtime)
    if missing:
        raise RuntimeUnusable(
            f'encoder.runtime is "{runtime}", but {", ".join(missing)} is not installed: '
            f"pip install 'cxrfind[{runtime}]' in cxrfind's environment, or set encoder.runtime = \"torch\""
        )
    if device not in ("cpu", "auto"):
        raise RuntimeUnusable(
            f'encoder.runtime = "{runtime}" computes on the CPU, but encoder.device is "{device}": set the device to '
            '"cpu", or the runtime to "torch"'
        )
