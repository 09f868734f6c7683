"""What people are told, in the language of their site.

The phrases stand in the code in English; `<language>.po` beside this file has them in another (GNU gettext).
A file is read once, when its language is first spoken. `tests/unit/test_language.py` sees to it that every
phrase of the code and of the templates is in every file.
"""

from __future__ import annotations

import io
from functools import cache
from gettext import GNUTranslations
from importlib.resources import files
from typing import Final

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

LANGUAGES: Final = ("en", "de")
"""The languages that a site may speak."""


class Phrases(GNUTranslations):
    """The phrases of one language: `gettext` for one, `ngettext` for one that counts."""

    def told(self, reason: str, name: str | None, others: int = 0) -> str:
        """Why somebody is told, as a sentence: "Ann and 4 others replied to your comment".

        `reason` is a notification's; `name` is who did it, as they are called, or None where nobody may know;
        `others` is how many did the same.
        """
        who = {"name": name or self.gettext("Somebody"), "others": others}
        return (self._one(reason) if others < 1 else self._several(reason, others)) % who

    def _one(self, reason: str) -> str:
        match reason:
            case "reply":
                return self.gettext("%(name)s replied to your comment")
            case "mention":
                return self.gettext("%(name)s mentioned you")
            case "follow":
                return self.gettext("%(name)s wrote in a thread that you follow")
            case "ancestor":
                return self.gettext("%(name)s wrote below a comment of yours")
            case "moderation":
                return self.gettext("A moderator decided about your comment")
            case _:
                return self.gettext("%(name)s wrote something")

    def _several(self, reason: str, others: int) -> str:
        match reason:
            case "reply":
                return self.ngettext(
                    "%(name)s and %(others)d other replied to your comment",
                    "%(name)s and %(others)d others replied to your comment",
                    others,
                )
            case "mention":
                return self.ngettext(
                    "%(name)s and %(others)d other mentioned you",
                    "%(name)s and %(others)d others mentioned you",
                    others,
                )
            case "follow":
                return self.ngettext(
                    "%(name)s and %(others)d other wrote in a thread that you follow",
                    "%(name)s and %(others)d others wrote in a thread that you follow",
                    others,
                )
            case "ancestor":
                return self.ngettext(
                    "%(name)s and %(others)d other wrote below a comment of yours",
                    "%(name)s and %(others)d others wrote below a comment of yours",
                    others,
                )
            case "moderation":
                return self.gettext("Moderators decided about your comment")
            case _:
                return self.ngettext(
                    "%(name)s and %(others)d other wrote something",
                    "%(name)s and %(others)d others wrote something",
                    others,
                )


@cache
def phrases(language: str) -> Phrases:
    """The phrases of one of LANGUAGES; of the first where it is another, which a newer release may have
    set."""
    with (files("services.language") / f"{language if language in LANGUAGES else LANGUAGES[0]}.po").open(
        "rb"
    ) as file:
        catalog = read_po(file)
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return Phrases(compiled)
