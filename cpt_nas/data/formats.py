"""Which files count as images, and why others are passed over."""

from __future__ import annotations

import posixpath

from hwprofiles.messages import escaped

# Pillow's formats and the suffixes of their files. No other format is opened, whatever a file
# claims to be: some of Pillow's readers start other programs.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Folders that systems and tools leave behind, beside those whose names begin with a dot.
SYSTEM_FOLDERS = frozenset(
    {
        "@eaDir",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__MACOSX",
        "__pycache__",
        "lost+found",
    }
)


def hidden(name: str) -> str | None:
    """Why a file or folder is no part of the set by its name alone, in words; None where it is.

    Args:
        name: path below the split, with slashes.
    """
    *folders, last = name.split("/")
    for folder in folders:
        if folder.startswith(".") or folder in SYSTEM_FOLDERS:
            return f"in {folder}"
    if last.startswith("."):
        return "hidden"
    return f"in {last}" if last in SYSTEM_FOLDERS else None


def passed_over(name: str) -> str | None:
    """Why a file of this name is no image of the set, in words; None where it is one.

    Args:
        name: path below the split, with slashes.
    """
    if (reason := hidden(name)) is not None:
        return reason
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in SUFFIXES:
        return None
    return suffix if len(suffix) > 1 else "without suffix"


def shown(name: str) -> str:
    """A name as it may stand in a line: control characters and broken ones are escaped."""
    return escaped(name).replace("\n", r"\n")
