"""A QR code in half blocks, two modules a character, as large as the terminal has room for."""

from __future__ import annotations

import segno

QUIET_ZONES = (4, 2)  # in modules: ISO/IEC 18004 asks for 4, scanners are content with 2
ON_BLACK = "\x1b[40;97m"
RESET = "\x1b[0m"

_GLYPHS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
"""By whether the upper and the lower module are light: blocks are light, as on the dark ground of most terminals."""


def qr_code(text: str, columns: int, lines: int) -> list[str] | None:
    """The rows of the code for `text`; None where no code of it fits into so many columns and lines."""
    code = segno.make(text, micro=False, error="l")
    for quiet_zone in QUIET_ZONES:
        light = [[not module for module in row] for row in code.matrix_iter(border=quiet_zone)]
        if len(light[0]) <= columns and (len(light) + 1) // 2 <= lines:
            return _half_blocks(light)
    return None


def can_show(encoding: str | None) -> bool:
    """Whether output in this encoding has the blocks."""
    try:
        "".join(_GLYPHS.values()).encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def coloured(row: str) -> str:
    """A row whose blocks are white on black whatever the terminal's own colours are."""
    return f"{ON_BLACK}{row}{RESET}"


def _half_blocks(light: list[list[bool]]) -> list[str]:
    if len(light) % 2:
        light = [*light, [False] * len(light[0])]
    pairs = zip(light[::2], light[1::2], strict=True)
    return ["".join(map(_GLYPHS.__getitem__, zip(upper, lower, strict=True))) for upper, lower in pairs]
