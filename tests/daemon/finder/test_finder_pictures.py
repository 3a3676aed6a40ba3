"""The picture of a query beside its matches."""

import numpy as np
from PIL import Image
from toy_encoder import DIM

from daemon.finder.pictures import write_picture
from storage.renditions import Renditions

AXES = np.eye(DIM, dtype=np.float32)


def test_the_query_and_its_matches_stand_side_by_side(archive, tmp_path):
    renditions = Renditions(tmp_path / "renditions")
    greys = {"1.1": 250, "1.2": 150, "1.3": 90}
    for study, grey in greys.items():
        key = renditions.put(np.full((64, 48), grey, np.uint8))
        archive.commit(archive.image(study, vector=AXES[0], rendition=key))
    archive.commit(archive.image("1.4", vector=AXES[0]))            # its rendition is missing
    path = tmp_path / "out.png"
    rows = [(1, 0.93, "1.2", "1.2.1"), (2, 0.81, "1.3", ""), (3, 0.5, "1.4", "1.4.1")]
    write_picture(path, archive.catalogue, renditions, "1.1", rows)
    sheet = np.asarray(Image.open(path))
    width = sheet.shape[1] // 4
    middles = [int(sheet[sheet.shape[0] // 3, width * n + width // 2]) for n in range(4)]
    assert middles[:3] == [250, 150, 90]
    assert middles[3] < 90


def test_a_text_query_shows_its_matches_alone(archive, tmp_path):
    path = tmp_path / "out.png"
    renditions = Renditions(tmp_path / "renditions")
    archive.commit(archive.image("1.2", vector=AXES[0], rendition=renditions.put(np.full((64, 64), 200, np.uint8))))
    write_picture(path, archive.catalogue, renditions, "", [(1, 0.9, "1.2", "")])
    assert Image.open(path).width < 400
