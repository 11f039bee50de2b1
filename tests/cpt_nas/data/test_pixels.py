"""One image as a viewer shows it, and what cannot be read."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from cpt_nas.data.formats import FORMATS
from cpt_nas.data.pixels import DEEP, FRAMES, TRANSPARENT, Unreadable, decode
from tests.support.image_files import file_of

ORIENTATION, PHOTOMETRIC = 0x0112, 262
grey = arrays(np.uint8, (5, 7))


def pixels(content: bytes, channels: int = 1) -> np.ndarray:
    return np.asarray(decode(content, channels).image)


# ---- depth -------------------------------------------------------------------------------------


@given(values=grey)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_the_same_picture_as_8(values, kind):
    wide = Image.fromarray(values.astype(np.uint16) * 257)
    image, remarks = decode(file_of(wide, kind), 3)
    assert remarks == (DEEP,)
    np.testing.assert_array_equal(np.asarray(image), values[..., None].repeat(3, -1))


@given(values=grey)
def test_16_bits_of_either_byte_order(values):
    data = (values.astype(">u2") * 257).astype(">u2").tobytes()
    content = file_of(Image.frombytes("I;16B", (7, 5), data), "TIFF")
    np.testing.assert_array_equal(pixels(content), values)


def test_white_may_be_zero():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    content = bytearray(file_of(Image.fromarray(values.astype(np.uint16) * 257), "TIFF"))
    tag = content.find(struct.pack("<HHI", PHOTOMETRIC, 3, 1))
    content[tag + 8 : tag + 10] = struct.pack("<H", 0)
    np.testing.assert_array_equal(pixels(bytes(content)), 255 - values)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_white_are_refused(dtype):
    content = file_of(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    with pytest.raises(Unreadable, match="none is white by definition; save 8 or 16 bits"):
        decode(content, 3)


# ---- orientation -------------------------------------------------------------------------------

VIEWED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a), 2),
    8: lambda a: np.rot90(a),
    9: lambda a: a,  # means nothing
}


@given(values=grey, orientation=st.sampled_from(sorted(VIEWED)))
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": 1})]
)
def test_images_stand_upright(kind, options, values, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = file_of(Image.fromarray(values).convert("RGB"), kind, exif=exif, **options)
    np.testing.assert_array_equal(pixels(content), VIEWED[orientation](values))


def test_a_photograph_held_sideways_stands_upright():
    half = np.zeros((32, 48), np.uint8)
    half[:16] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    shown = pixels(file_of(Image.fromarray(half), "JPEG", exif=exif, quality=95))
    assert shown.shape == (48, 32)
    assert shown[:, 18:].min() > 240 and shown[:, :14].max() < 15  # white on the right


# ---- transparency ------------------------------------------------------------------------------


@given(colours=arrays(np.uint8, (4, 6, 4)), other=arrays(np.uint8, (4, 6, 3)))
@settings(max_examples=50)
def test_transparency_is_laid_on_white(colours, other):
    alpha = colours[..., 3:] / 255
    image, remarks = decode(file_of(Image.fromarray(colours), "PNG"), 3)
    on_white = alpha * colours[..., :3] + 255 * (1 - alpha)
    assert np.abs(np.asarray(image) - on_white).max() <= 1  # rounding
    assert (TRANSPARENT in remarks) == bool((alpha < 1).any())
    hidden = colours[..., 3] == 0
    changed = colours.copy()
    changed[hidden, :3] = other[hidden]
    again = decode(file_of(Image.fromarray(changed), "PNG"), 3).image
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))


@pytest.mark.parametrize(
    ("mode", "colour", "transparent"),
    [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 7, 7), ("1", 0, 0), ("LA", (7, 0), None)],
)
def test_transparency_of_other_modes(mode, colour, transparent):
    options = {} if transparent is None else {"transparency": transparent}
    image, remarks = decode(file_of(Image.new(mode, (4, 4), colour), "PNG", **options), 1)
    assert remarks == (TRANSPARENT,)
    assert image.getextrema() == (255, 255)


def test_transparency_of_a_palette_and_of_16_bits():
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([10, 20, 30] * 4)
    deep = Image.fromarray(np.full((4, 4), 515, np.uint16))
    for picture, value in ((palette, 3), (deep, 515)):
        content = file_of(picture, "PNG", transparency=value)
        assert decode(content, 3).image.getextrema() == ((255, 255),) * 3
        assert TRANSPARENT in decode(content, 3).remarks


# ---- what else there is ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_several_frames_the_first_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), (i * 60,) * 3) for i in range(3)]
    content = file_of(frames[1], kind, save_all=True, append_images=[frames[2], frames[0]])
    image, remarks = decode(content, 1)
    assert remarks == (FRAMES,)
    assert image.getpixel((0, 0)) == pytest.approx(60, abs=2)  # WebP is lossy


def test_colour_models_become_rgb():
    for mode, kind in (("CMYK", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("YCbCr", "JPEG")):
        assert decode(file_of(Image.new(mode, (4, 4)), kind), 3).image.mode == "RGB"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "no image of a known format"),
        (file_of(Image.new("RGB", (99, 99)), "EPS"), "no image of a known format"),
        (file_of(Image.new("1", (15000, 15000)), "PNG"), "could be decompression bomb"),
    ],
)
def test_why_an_image_cannot_be_read(content, why):
    with pytest.raises(Unreadable, match=why):
        decode(content, 3)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged TIFF files
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_read_or_refused_in_one_line(kind, data):
    values = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    content = bytearray(file_of(Image.fromarray(values), kind))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for glance in (False, True):
        try:
            decode(bytes(content[:cut]), 3, glance)
        except Unreadable as error:
            assert str(error) and "\n" not in str(error) and len(str(error)) <= 100


@pytest.mark.parametrize("kind", FORMATS)
def test_a_glance_finds_what_is_cut_short(kind):
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = file_of(Image.fromarray(values), kind)
    assert decode(content, 3, glance=True).remarks == ()
    with pytest.raises(Unreadable):
        decode(content[: len(content) * 2 // 3], 3, glance=True)
