import numpy as np
import pytest
from PIL import Image

from arrcoc.processing.images import check_aspect_ratio, load_image, to_rgb


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg", "gif"])
def test_files_are_read(tmp_path, photo, suffix):
    path = tmp_path / f"image.{suffix}"
    photo.save(path)
    for source in (path, str(path)):
        np.testing.assert_array_equal(pixels(load_image(source)), pixels(Image.open(path).convert("RGB")))
    path.unlink()  # nothing keeps the file open


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png does not exist"):
        load_image(tmp_path / "gone.png")


def test_directory(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        load_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7 ...", b"\x89PNG\r\n\x1a\n"])
def test_no_image(tmp_path, content):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file\.png"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "webp", "bmp"])
def test_file_that_is_cut_short(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / f"half.{suffix}"
    noise.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"half\.{suffix}"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [200, 100])  # Pillow warns above the limit and raises above twice the limit
def test_decompression_bomb(tmp_path, photo, monkeypatch, limit):
    path = tmp_path / "bomb.png"
    photo.save(path)  # 240 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=rf"bomb\.png.*20x12|240.*PIL\.Image\.MAX_IMAGE_PIXELS is {limit}"):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(path).size == photo.size


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_poster_above_pillows_own_limit(tmp_path):
    path = tmp_path / "poster.png"
    Image.new("1", (12_000, 9_000)).save(path)
    with pytest.raises(ValueError, match=r"12000x9000 pixels.*MAX_IMAGE_PIXELS is 89478485"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(path).n_frames == 3
    np.testing.assert_array_equal(pixels(load_image(path)), pixels(frames[0]))


def test_exif_orientation_is_applied(tmp_path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn of 90 degrees clockwise
    path = tmp_path / "turned.png"
    photo.save(path, exif=exif)
    np.testing.assert_array_equal(pixels(load_image(path)), np.rot90(pixels(photo), -1))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK", "YCbCr", "P", "HSV", "LAB"])
def test_modes_that_pillow_converts(photo, mode):
    image = Image.fromarray(pixels(photo), mode="LAB") if mode == "LAB" else photo.convert(mode)
    np.testing.assert_array_equal(pixels(to_rgb(image)), pixels(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparency_is_laid_over_white(mode):
    values = np.zeros((2, 3, 4), np.uint8)  # black
    values[..., 3] = [0, 51, 255]
    image = Image.fromarray(values)
    image = image.convert("LA").convert(mode) if mode == "La" else image.convert(mode)
    assert image.mode == mode
    np.testing.assert_allclose(pixels(to_rgb(image))[0, :, 0], [255, 204, 0], atol=1)


def test_transparent_colour_of_a_palette_and_of_rgb(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.info["transparency"] = 0
    assert pixels(to_rgb(image)).tolist() == [[[255] * 3, [255, 0, 0], [0, 0, 255]]]
    path = tmp_path / "key.png"
    Image.fromarray(np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8)).save(path, transparency=(0, 0, 0))
    assert pixels(load_image(path)).tolist() == [[[255] * 3, [9] * 3]]


@pytest.mark.parametrize(
    "dtype, values, expected",
    [
        (np.uint16, [0, 257, 32896, 65535], [0, 1, 128, 255]),  # mode I;16
        (np.int32, [0, 128, 255, -5], [0, 128, 255, 0]),  # mode I with 8-bit values
        (np.int32, [0, 257, 32896, 65535], [0, 1, 128, 255]),
        (np.int32, [0, 1_000_000, 500_000, 0], [0, 255, 128, 0]),
        (np.float32, [0, 0.5, 1, -1], [0, 128, 255, 0]),  # mode F
        (np.float32, [0, 128, 255, np.nan], [0, 128, 255, 0]),
        (np.float32, [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_wide_gray_is_scaled_and_not_clipped(dtype, values, expected):
    image = Image.fromarray(np.array([values], dtype))
    assert image.mode in ("I;16", "I", "F")
    assert pixels(to_rgb(image))[0, :, 0].tolist() == expected


def test_wide_gray_file(tmp_path):
    path = tmp_path / "scan.png"
    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)).save(path)
    assert np.unique(pixels(load_image(path))).size > 250


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (10, 2001), (0, 5)])
def test_too_long_and_thin(size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]} pixels"):
        check_aspect_ratio(size)


def test_long_and_thin_file_is_named(tmp_path):
    path = tmp_path / "thread.png"
    Image.new("L", (1, 3000)).save(path)
    with pytest.raises(ValueError, match=r"thread\.png of 1x3000"):
        load_image(path)
    check_aspect_ratio((200, 1))


def test_open_images_are_converted(photo):
    assert load_image(photo.convert("L")).mode == "RGB"
