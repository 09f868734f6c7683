"""Links in a comment, as a reader would follow them: what rules against spam count."""

from __future__ import annotations

import re
from typing import Final

_LINK: Final = re.compile(r'<a href="([^"]*)"')


def links_in(html: str) -> int:
    """How many different addresses the HTML of a body links to, as `services.core.markup.render` wrote it.

    Counted in what is shown, not in what was typed: `[a](b)` in code is no link, a bare address is one. The
    renderer writes `<a href="` for its links alone, since it escapes every `<` of the text. Addresses that
    differ in their fragment (`#…`) are one: they lead to one page.
    """
    if "<a " not in html:
        return 0
    return len({address.partition("#")[0] for address in _LINK.findall(html)})
