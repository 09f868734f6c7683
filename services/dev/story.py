"""The demo's thread: a village talks about how to move its library. Written for threadlog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SITE: Final = "village"
KEY: Final = "2026/11/moving-the-library"
TITLE: Final = "Nine thousand books, four hundred metres"
URL: Final = "https://village.example/2026/11/moving-the-library"

PEOPLE: Final = {
    "u-maud": "Maud",
    "u-tom": "Tom",
    "u-ines": "Inês",
    "u-gregor": "Gregor",
    "u-lotte": "Lotte",
    "u-sami": "Sami",
    "u-bea": "Bea",
    "u-pavel": "Pavel",
    "u-dealer": "Gadget Barn",
}
MODERATOR: Final = "u-vicar"
MODERATOR_NAME: Final = "Rev. Okafor"


@dataclass(frozen=True, slots=True)
class Said:
    """One comment: what the story calls it, who says it, below which other one, and what."""

    label: str
    by: str
    to: str | None
    body: str


STORY: Final = (
    Said(
        "call",
        "u-maud",
        None,
        "The roof of the schoolhouse is past mending, so in April the library moves into the mill. That is "
        "**four hundred metres**, downhill, for about nine thousand books.\n\nA removal firm wants more than "
        "the roof would have cost. How would *you* do it?",
    ),
    Said(
        "chain",
        "u-tom",
        "call",
        "A human chain! With a metre and a half for each of us that is 270 people, and there are 310 in the "
        "village. The school has already said yes, and so has the brass band.",
    ),
    Said(
        "arms",
        "u-ines",
        "chain",
        "@Tom, did you count the arms or the people? My mother is one of your 310, and she is ninety-one. "
        "She would like a chair, and only poetry.",
    ),
    Said(
        "chairs",
        "u-tom",
        "arms",
        "Chairs every ten metres, then, and @Inês, your mother gets the slim volumes. I make it ninety books "
        "an hour past any one chair, so we are done before supper.",
    ),
    Said(
        "sum",
        "u-gregor",
        "chairs",
        "@Tom, ninety an hour is a hundred hours. Somebody would have to feed the band.",
    ),
    Said(
        "corrected",
        "u-tom",
        "sum",
        "I dropped a nought: *nine hundred* an hour, a book every four seconds. I have corrected it above. "
        "Thank you, @Gregor, that was nearly a very long day.",
    ),
    Said(
        "order",
        "u-lotte",
        "chain",
        "A chain keeps the order, which no van does: what leaves the shelf first arrives first. We could "
        "shelve at the mill straight from the last pair of hands.",
    ),
    Said(
        "backwards",
        "u-maud",
        "order",
        "Only if the shelves there fill from the far end, @Lotte. I shall send Z down first and be brave.",
    ),
    Said(
        "carts",
        "u-gregor",
        "call",
        "I have two hay carts and a patient horse. Forty crates a trip, `9000 / 40 / 25` is nine trips. The "
        "horse knows the way to the mill, and likes an audience.",
    ),
    Said(
        "brake",
        "u-pavel",
        "carts",
        "The lane is steep past the chapel. Put straw under the wheels, and do not let the encyclopaedias "
        "ride at the back: I have seen what a *Britannica* does to a gate.",
    ),
    Said(
        "atlas",
        "u-ines",
        "brake",
        "@Pavel, that was you? My atlas came back from the county with a hinge in it.",
    ),
    Said(
        "rain",
        "u-lotte",
        "carts",
        "And if it rains? A list for @Gregor:\n\n- tarpaulins\n- the dry week after Easter\n- an apology to "
        "the horse",
    ),
    Said(
        "loan",
        "u-sami",
        None,
        "Why move them at all? Let everybody borrow thirty books in March and bring them back to the mill in "
        "May. Three hundred of us, thirty each: that is the whole library, and nobody lifts a crate.",
    ),
    Said(
        "thirty",
        "u-bea",
        "loan",
        "I can take sixty if I may keep the cookery ones until June. Ring me, it is the number on the dairy.",
    ),
    Said(
        "promise",
        "u-sami",
        "thirty",
        "@Bea, put down for sixty. The cookery ones come with a condition: we taste what comes of them.",
    ),
    Said(
        "fines",
        "u-maud",
        "loan",
        "@Sami, this is the first plan that makes my books *more* read rather than less. No fines until the "
        "doors of the mill open, I promise it here in public.",
    ),
    Said(
        "half",
        "u-tom",
        "fines",
        "Then do both: what nobody borrows goes down the chain. I would miss the band.",
    ),
    Said(
        "advert",
        "u-dealer",
        "call",
        "Paper is over!!! E-readers at half price, this week only, all nine thousand books in your pocket.",
    ),
    Said(
        "number",
        "u-pavel",
        "rain",
        "The man with the tarpaulins lives behind the forge, and this is what he owes the bank …",
    ),
    Said(
        "mill",
        "u-lotte",
        None,
        "One question nobody has asked: is the mill dry? There is a survey at <https://mill.example/survey>, "
        "and page four is about the wheel.",
    ),
    Said(
        "dry",
        "u-maud",
        "mill",
        "Dry since the sluice was mended, @Lotte, and I slept there a night to be sure. It creaks a little, "
        "as a library should.",
    ),
)

TYPO: Final = "chairs"
CORRECTED: Final = (
    "Chairs every ten metres, then, and @Inês, your mother gets the slim volumes. I make it nine hundred "
    "books an hour past any one chair, so we are done before supper."
)
REPORTED: Final = "advert"
REPORTERS: Final = ("u-bea", "u-pavel", "u-lotte")
TAKEN_BACK: Final = "thirty"
"""Deleted by its author; `promise` then answers a comment that is gone."""
REMOVED: Final = "number"
ANSWERED: Final = "sum"
"""The reply whose notification is shown: it tells the author of `chairs`."""
