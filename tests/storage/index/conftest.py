"""What several files here do with vectors."""

import pytest

from storage.index.codes import CodeRows
from storage.index.sketch import Sketch


@pytest.fixture
def sketched():
    """Return a function: the codes of rows, float32 (n, dim), and the sketch that followed them, 700 at a time."""

    def follow(rows):
        codes, sketch = CodeRows(rows.shape[1]), Sketch(rows.shape[1])
        for start in range(0, len(rows), 700):
            codes.append(rows[start : start + 700])
            sketch.fit(codes)
            sketch.follow(codes)
        return codes, sketch

    return follow
