import hashlib

import imagecodecs
import numpy as np
import pytest

from storage.renditions import RenditionDamaged, Renditions


@pytest.fixture
def image():
    return np.random.default_rng(3).integers(0, 256, (61, 47), dtype=np.uint8)


def test_an_image_comes_back_bit_for_bit(tmp_path, image):
    key = Renditions(tmp_path).put(image)
    assert np.array_equal(Renditions(tmp_path).load(key), image)


def test_an_image_of_floats_is_kept_to_the_nearest_of_256_greys(tmp_path):
    pixels = np.linspace(0, 1, 3000, dtype=np.float32).reshape(50, 60)
    store = Renditions(tmp_path)
    assert np.abs(store.load_unit(store.put(pixels)) - pixels).max() <= 0.5 / 255 + 1e-6


def test_numbers_beyond_the_range_and_nan_don_t_wrap(tmp_path):
    store = Renditions(tmp_path)
    loaded = store.load(store.put(np.array([[-1, 2], [np.nan, 0.5]], dtype=np.float32)))
    assert loaded.tolist() == [[0, 255], [0, 128]]


def test_equal_images_share_a_key_and_a_file(tmp_path, image):
    store = Renditions(tmp_path)
    keys = store.put_many([image, image.copy(), image[::-1].copy()])
    assert keys[0] == keys[1] != keys[2]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_file_is_told_apart_and_mended_by_putting_again(tmp_path, image, damage):
    store = Renditions(tmp_path)
    key = store.put(image)
    data = bytearray(store.path(key).read_bytes())
    data[len(data) // 2] ^= 16
    if damage == "flip":
        store.path(key).write_bytes(data)
    elif damage == "truncate":
        store.path(key).write_bytes(data[:100])
    else:
        store.delete(key)
    with pytest.raises(RenditionDamaged, match="send the object again"):
        store.load(key)
    assert store.put(image) == key
    assert np.array_equal(store.load(key), image)


def test_a_rendition_of_an_older_version_is_read_and_deleted(tmp_path, image):
    data = bytes(imagecodecs.jpegls_encode(image))
    key = hashlib.sha256(data).hexdigest()
    path = tmp_path / key[:2] / key[2:4] / f"{key}.jls"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    store = Renditions(tmp_path)
    assert store.path(key) == path
    assert np.array_equal(store.load(key), image)
    store.delete(key)
    with pytest.raises(RenditionDamaged, match="missing"):
        store.load(key)


def test_a_key_cannot_leave_the_folder(tmp_path):
    with pytest.raises(ValueError, match="no rendition key"):
        Renditions(tmp_path).load("../../../etc/passwd")


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 2, 3)])
def test_only_pictures_of_rows_and_columns_are_taken(tmp_path, shape):
    with pytest.raises(ValueError, match="rows and columns"):
        Renditions(tmp_path).put(np.zeros(shape, dtype=np.uint8))
