"""Words of error messages: values, names and source lines, safe to print."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

PASSWORD_IN_URL = re.compile(r"(?P<before>[a-zA-Z][a-zA-Z0-9+.-]{0,30}://[^/\s:@]*:)(?P<secret>[^/\s]+)@")


def printable(text: str) -> str:
    """One line in which no character moves the cursor, changes colours or reorders the text."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def mask(line: str) -> str:
    """A source line for an error message: columns kept, control and bidi characters and passwords in URLs hidden."""
    line = PASSWORD_IN_URL.sub(lambda found: found["before"] + "*" * len(found["secret"]) + "@", line)
    return "".join(
        " " if c == "\t" else c if unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in line
    )


def quote(value: object) -> str:
    """A value in a message: one line, bounded, escaped, in YAML's words."""
    words = {"True": "true", "False": "false", "None": "null"}
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        return "a huge integer"
    text = words.get(text, PASSWORD_IN_URL.sub(r"\g<before>***@", text))
    return text if len(text) <= 60 else text[:57] + "..."


def suggest(name: object, valid: Iterable[str]) -> str:
    """'did you mean …?' where a valid name is near, else the valid names."""
    from difflib import get_close_matches  # only on the way to an error

    known = list(valid)
    near = get_close_matches(str(name)[:80].lower().replace("-", "_").replace(" ", "_"), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}" if known else ""
