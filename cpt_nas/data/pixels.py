"""One image file as a viewer shows it: upright, 8 bits a channel, transparency laid on white."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cpt_nas.data.formats import FORMATS
from cpt_nas.data.origin import Content

TRANSPARENT = "with transparency, laid on white"
FRAMES = "with several frames, the first taken"
DEEP = "of 16 bits, scaled to 8"

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # of TIFF


class Unreadable(ValueError):
    """An image that cannot be read; the message is the reason, in one line."""


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
        image: of mode L or RGB.
        remarks: in which ways it is not what the file holds.
    """

    image: Image.Image
    remarks: tuple[str, ...]


def decode(content: Content, channels: int, glance: bool = False) -> Picture:
    """Decode an image.

    Args:
        content: a file's bytes, or an image.
        channels: 1 or 3.
        glance: only to learn whether it can be decoded; JPEGs come out smaller then.

    Raises:
        Unreadable: it is no image, is damaged, or its pixels have no defined white.
    """
    try:
        return _decode(content, channels, glance)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("no image of a known format" if content else "empty") from None
    # Pillow's plugins raise nearly anything for damaged files; the file is at fault, always.
    except Exception as error:
        raise Unreadable(reason(error)) from None


def reason(error: Exception) -> str:
    """Why something could not be read, in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:100] or type(error).__name__


def _decode(content: Content, channels: int, glance: bool) -> Picture:
    image = content if isinstance(content, Image.Image) else _open(content)
    if 0 in image.size:
        raise Unreadable("without pixels")
    mode = "L" if channels == 1 else "RGB"
    remarks = []
    if image.format != "MPO" and getattr(image, "is_animated", False):
        remarks.append(FRAMES)
        image.seek(0)
    if glance:
        image.draft(mode, (1, 1))
    kind, white_is_zero, bits = image.format, *_tiff_tags(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _to_8_bits(image, kind, bits, white_is_zero)
        remarks.append(DEEP)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            remarks.append(TRANSPARENT)
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return Picture(image.convert(mode), tuple(remarks))


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=tuple(FORMATS))


def _tiff_tags(image: Image.Image) -> tuple[bool, int]:
    """(zero means white, bits of a sample), which Pillow leaves to its caller beyond 8 bits."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(PHOTOMETRIC) == WHITE_IS_ZERO, tags.get(BITS_PER_SAMPLE, (16,))[0]


def _to_8_bits(image: Image.Image, kind: str | None, bits: int, white_is_zero: bool) -> Image.Image:
    """A grey image of up to 16 bits, of which Pillow's own conversion cuts off all above 255."""
    # Pillow reads PGM files above 8 bits, and in older versions PNG files, into 32-bit pixels that
    # reach to 65,535.
    if image.mode == "F" or (image.mode == "I" and kind not in ("PPM", "PNG")):
        type_ = "float" if image.mode == "F" else "signed or 32-bit"
        raise Unreadable(f"{type_} pixels, of which none is white by definition; save 8 or 16 bits")
    values = np.asarray(image).astype(np.float64) * (255 / (2**bits - 1))
    transparent = image.info.get("transparency")
    grey = values.round().clip(0, 255).astype(np.uint8)
    result = Image.fromarray(255 - grey if white_is_zero else grey)
    if transparent is not None:
        opaque = np.asarray(image) != transparent
        result.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return result
