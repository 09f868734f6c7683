"""Made-up comments that look like comments: varied lengths, some Markdown. The same seed, the same text."""

from __future__ import annotations

from random import Random
from typing import Final

_TEXT: Final = """
    the a of and to in is that it was for on are with as they be at this from have or by one had not but what
    all were when we there can an your which their said if do will each about how up out them then she many
    some so these would other into has more her two like him see time could no make than first been its who
    now people my made over did down only way find use may water long little very after words called just
    where most know get through back much before go good new write our used me man too any day same right
    look think also around another came come work three word must because does part even place well such
    here take why things help put years different away again off went old number great tell men say small
    every found still between name should home big give air line set own under read last never us left end
    along while might next sound below saw something thought both few those always looked show large often
    together asked house world going want school important until form food keep children feet land side
    without boy once animals life enough took sometimes four head above kind began almost live page got
    earth need far hand high year mother light parts country father let night following picture being study
    second eyes soon times story boys since white days ever paper hard near sentence better best across
    during today others however sure means knew try told young miles sun ways thing whole hear example heard
    several change answer room sea against top turned learn point city play toward five using himself
    usually tram council budget bridge river cyclists parking harbour market stadium rent landlord orchard
    recipe sourdough oven kernel compiler database latency queue protocol firmware telescope comet glacier
    librarian archive referee penalty midfield orchestra cello rehearsal novel chapter translator café naïve
    Zürich señor Straße übrigens déjà
"""
_WORDS: Final = tuple(_TEXT.split())
_ENDS: Final = (".", ".", ".", ".", "!", "?", " …")


def body(random: Random) -> str:
    """The Markdown of one comment: most are a few sentences, some a word, a few run over paragraphs."""
    words = min(600, max(2, int(random.lognormvariate(3.4, 0.9))))
    paragraphs = []
    while words > 0:
        count = min(words, random.randint(20, 90))
        words -= count
        paragraphs.append(_paragraph(random, count))
    if random.random() < 0.1:
        paragraphs.insert(0, "> " + sentence(random, random.randint(5, 20)))
    if random.random() < 0.03:
        paragraphs.append("\n".join(f"- {sentence(random, random.randint(2, 8))}" for _ in range(3)))
    return "\n\n".join(paragraphs)


def sentence(random: Random, count: int) -> str:
    """`count` words, the first with a capital, some of them marked up, an end."""
    words = random.choices(_WORDS, k=count)
    words[0] = words[0].capitalize()
    place, kind = random.randrange(count), random.random()
    if kind < 0.06:
        words[place] = f"*{words[place]}*"
    elif kind < 0.09:
        words[place] = f"**{words[place]}**"
    elif kind < 0.11:
        words[place] = f"`{words[place]}`"
    elif kind < 0.14:
        words[place] = f"[{words[place]}](https://example.org/{random.randrange(10_000)})"
    return " ".join(words) + random.choice(_ENDS)


def _paragraph(random: Random, words: int) -> str:
    sentences = []
    while words > 0:
        count = min(words, random.randint(4, 18))
        words -= count
        sentences.append(sentence(random, count))
    return " ".join(sentences)
