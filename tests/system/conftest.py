"""Lets the system tests import what they share: service.py, small_encoder.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
