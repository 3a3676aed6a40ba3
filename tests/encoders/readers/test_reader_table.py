"""The table of SOP classes and transfer syntaxes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydicom.uid import UID

from encoders.readers import READERS, TRANSFER_SYNTAXES
from encoders.readers.decode import DECODERS

DESIGN = {
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.1",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
    "1.2.840.10008.5.1.4.1.1.88.11",
    "1.2.840.10008.5.1.4.1.1.88.22",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.88.34",
    "1.2.840.10008.5.1.4.1.1.88.35",
    "1.2.840.10008.5.1.4.1.1.88.59",
    "1.2.840.10008.5.1.4.1.1.11.1",
    "1.2.840.10008.5.1.4.1.1.104.1",
    "1.2.840.10008.5.1.4.1.1.104.2",
}


def test_every_storage_class_of_the_design_has_a_row():
    assert set(READERS) == DESIGN


@pytest.mark.parametrize("uid", sorted(READERS))
def test_a_row_is_named_as_in_the_standard_and_its_reader_can_be_loaded(uid):
    assert READERS[uid].name == UID(uid).name
    assert READERS[uid].reader is None or callable(READERS[uid].load())


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.uid)
def test_a_transfer_syntax_is_named_as_in_the_standard_and_has_a_decoder(syntax):
    assert UID(syntax.uid).name.startswith(syntax.name.split(" (Process")[0].split(" with RPCL")[0])
    assert UID(syntax.uid).is_encapsulated == syntax.compressed
    assert syntax.uid in DECODERS


def test_importing_the_table_loads_neither_torch_nor_a_codec():
    code = (
        "import sys, encoders.readers as r; assert len(r.READERS) > 10;"
        "heavy = {'torch', 'imagecodecs', 'PIL', 'pypdf', 'transformers', 'pydicom'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
