"""A hand-written page with generated sections in it: what stands outside the markers is never touched.

    <!-- begin NAME -->
    generated
    <!-- end NAME -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import SlotIDError


def fill(page: str, sections: Mapping[str, str]) -> str:
    """The page with the sections between their markers.

    Raises:
        SlotIDError: a section that the page has no place for, or a marker without its other half.
    """
    for name, text in sections.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
            raise SlotIDError(
                f"the page has no one place for {name!r}", f"{begin} and, after it, {end}, once each", "put them in."
            )
        head, tail = page.split(begin)[0] + begin, end + page.split(end)[1]
        page = f"{head}\n{text.strip()}\n{tail}"
    return page


def section_names(page: str) -> list[str]:
    """The names of the page's sections, in order."""
    return re.findall(r"<!-- begin ([\w-]+) -->", page)


def blank(title: str, names: Mapping[str, str]) -> str:
    """A page with nothing but headings and empty sections: name -> heading."""
    parts = [f"## {heading}\n\n<!-- begin {name} -->\n<!-- end {name} -->\n" for name, heading in names.items()]
    return f"# {title}\n\n" + "\n".join(parts)
