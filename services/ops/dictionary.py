"""Makes `services/readmodel/nodes.zdict`, the dictionary that the views' nodes are compressed with.

    python -m services.ops.dictionary services/readmodel/nodes.zdict

What it learns from is made up here: the members that every node has, and sentences of common words in several
languages. The file is part of the format of the views (`services/readmodel/keys.py`): another one is a cold
cache. It is kept in the repository, since another release of zstandard may train another one.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final
from uuid import UUID

import zstandard

from schema.events.envelope import EPOCH
from services.core.node import author_fragment, encode, text_fragment
from services.core.thread import Comment, CommentState

SIZE: Final = 24 << 10
_SAMPLES: Final = 12_000

_LANGUAGES: Final = (
    # English stands thrice: most of what is written in comments is.
    """the a of and to in is that it was for on are with as they be at this from have or by one had not but
    what all were when we there can an your which their said if do will each about how up out them then
    she many some so these would other into has more her two like him see time could no make than first
    been its who now people my made over did down only way find use may long little very after words
    just where most know get through back much before go good new write our me man too any day same
    right look think also around another came come work three must because does part even place well
    such here take why things help put years different away again off went old number great tell men say
    small every found still between name should never really something nothing always actually probably
    though maybe agree disagree article comment point question answer problem reason government country
    company money world life please thanks thank you people's don't doesn't isn't can't won't it's
    that's I'm I've you're they're there's didn't wasn't would've without against enough whether however
    better best worse whole rather quite already almost anyone everyone someone anything everything
    understand believe remember happen happened change changed support public system business state
    school public health story news read reading written wrote example different important interesting
    possible true wrong sure mean""",
    """der die das und ist nicht ich sie es ein eine einen einem einer zu in den dem von mit sich auf für
    wie auch aber wenn man nur noch nach bei aus um am als an im so was wir ihr hat haben hatte sind war
    waren wird werden würde kann können könnte muss müssen soll sollte mehr sehr schon immer wieder hier
    dann doch ja nein oder über durch gegen ohne unter zwischen diese dieser dieses alle alles jeder
    keine kein mein dein sein unser viel viele Leute Menschen Jahre Zeit Land Geld Frage Problem Artikel
    Meinung Beispiel eigentlich vielleicht natürlich einfach genau leider gerade deshalb trotzdem
    möglich wichtig richtig falsch gut besser schlecht neu groß""",
    """le la les de des du un une et est en que qui dans pour pas sur au aux avec ce cette ces il elle ils
    elles on nous vous je tu se son sa ses leur leurs mais ou où donc car ni ne plus moins très bien mal
    tout tous toute toutes être avoir fait faire dit dire peut pouvoir doit devoir aussi comme même sans
    sous entre depuis encore toujours jamais rien quelque chose temps gens pays monde argent article
    question problème exemple raison vrai faux parce quand alors après avant peu beaucoup trop assez
    c'est n'est d'un d'une qu'il l'on j'ai été était""",
    """el la los las de del un una y es en que por para con no se lo su sus al como más pero muy ya todo
    todos esta este esto ese eso son fue era ser estar está están hay tiene tienen hacer hace puede
    pueden cuando donde porque también sin sobre entre hasta desde siempre nunca nada algo mucho muchos
    poco bien mal gente tiempo país mundo años dinero artículo pregunta problema razón verdad ejemplo
    mismo otra otro así entonces después antes quien""",
    """il lo la i gli le di del della dei delle un una e è in che per con non si su al alla come più ma
    molto già tutto tutti questo questa quello sono era essere stato ha hanno fare può possono quando
    dove perché anche senza sopra tra fino sempre mai niente qualcosa tanto poco bene male gente tempo
    paese mondo anni soldi articolo domanda problema ragione vero esempio stesso altra altro così allora
    dopo prima chi cosa""",
    """o a os as de do da dos das um uma e é em que por para com não se no na ao como mais mas muito já
    tudo todos esta este isso isto são foi era ser estar está tem têm fazer faz pode quando onde porque
    também sem sobre entre até sempre nunca nada algo muitos pouco bem mal gente tempo país mundo anos
    dinheiro artigo pergunta problema""",
    """de het een en is van in dat op te zijn met voor niet aan er om ook als maar dan bij nog wel naar uit
    door over ze hij je we ik mijn jouw haar ons dit deze die wat wie waar wanneer waarom omdat kan
    kunnen moet moeten zou heeft hebben had was waren worden werd veel meer mensen tijd land geld vraag
    probleem artikel goed slecht""",
    """i w na z do się nie to że jest o jak ale co tak po za od dla przez czy już tylko bardzo może być był
    była było są ma mają ten ta te tego tej który która które wszystko ludzie czas kraj pieniądze
    pytanie problem artykuł""",
    """och att det som en ett är på i för av med till den inte om var jag han hon de vi du så men kan har
    hade ska skulle eller från när vad mycket bara också efter människor tid land pengar fråga problem
    artikel bra""",
    """ve bir bu da de için çok ama ne gibi daha var yok en ben sen o biz siz onlar değil mi kadar sonra
    önce her şey insan insanlar zaman ülke para soru sorun haber iyi kötü doğru yanlış olarak olan oldu
    olur diye""",
    """и в не на что я с он как это по но они мы ты вы она так его все за от же из у бы если уже или ни
    быть был была было есть для до при только можно надо очень когда где потому тоже без люди время
    страна деньги вопрос проблема статья хорошо плохо правда почему здесь там потом сейчас просто может""",
)
_ENDS: Final = (
    ". ",
    ". ",
    ". ",
    ". ",
    ", ",
    ", ",
    ", ",
    "! ",
    "? ",
    "... ",
    ": ",
    "; ",
    " - ",
    ".\n\n",
    " (",
    ") ",
)
_MARKED: Final = ("*{}*", "**{}**", "`{}`", "[{}](https://www.example.org/{})", "> {}\n\n", '"{}"', "@{}")
_NAMES: Final = (
    "Ann",
    "Bob",
    "Maria",
    "Jean",
    "Peter",
    "Anna K.",
    "john_smith",
    "Ola",
    "Sven",
    "Ayşe",
    "Ivan",
)
_AVATARS: Final = (None, None, None, "https://www.example.org/avatars/{}.png")


def main(path: Path) -> None:
    """Train the dictionary, and write it to `path`."""
    random = Random(20261123)  # noqa: S311 (made-up text, the same each time)
    samples: list[bytes | bytearray | memoryview[int]] = [_node(random) for _ in range(_SAMPLES)]
    path.write_bytes(zstandard.train_dictionary(SIZE, samples, level=3).as_bytes())


def _text(random: Random, words: list[str]) -> str:
    """Some sentences: the words that stand first in the list are the commonest."""
    text, length, begins = "", random.randint(20, 500), True
    while len(text) < length:
        for _ in range(random.randint(2, 14)):
            word = words[int(len(words) * random.random() ** 1.7)]
            if random.random() < 0.35:  # a rarer one, of the same letters
                word = word[: random.randint(1, len(word))] + random.choice(words)[-random.randint(1, 5) :]
            if random.random() < 0.01:
                word = random.choice(_MARKED).format(word, random.randrange(10_000))
            text += word.capitalize() if begins else word
            text += " "
            begins = False
        text = text[:-1] + random.choice(_ENDS)
        begins = text[-2] in ".!?\n"
    return text.strip()


def _node(random: Random) -> bytes:
    number = random.randrange(9)
    words = _LANGUAGES[0 if number < 3 else random.randrange(len(_LANGUAGES))].split()
    created_at = EPOCH + timedelta(
        days=365 * 56, seconds=random.randrange(10**8), microseconds=random.randrange(10**6)
    )
    edited = random.random() < 0.03
    voted = random.random() < 0.2
    author_id = random.choice(
        (f"u-{random.randrange(10**5)}", f"{random.randrange(10**7)}", f"guest:{_id(random, created_at)}")
    )
    avatar = random.choice(_AVATARS)
    comment = Comment(
        id=_id(random, created_at),
        posted=0,
        parent=random.choice((0, random.randrange(10**5))),
        depth=min(9, int(random.expovariate(0.6))),
        created_at=created_at,
        author_id=author_id,
        state=CommentState.HIDDEN if random.random() < 0.01 else CommentState.VISIBLE,
        revision=1 + edited,
        edited_at=created_at + timedelta(seconds=300) if edited else None,
        edited_by="author" if edited else None,
        version=random.randrange(1, 10 ** random.randint(1, 6)),
        up=random.randrange(9) if voted else 0,
        down=random.randrange(3) if voted else 0,
    )
    author = author_fragment(
        author_id,
        random.choice(_NAMES) + random.choice(("", str(random.randrange(100)))),
        avatar and avatar.format(random.randrange(10**5)),
    )
    return encode(comment, author, text_fragment(_text(random, words)))


def _id(random: Random, created_at: datetime) -> UUID:
    """A UUIDv7 of that time."""
    milliseconds = int(created_at.timestamp() * 1000)
    return UUID(
        int=milliseconds << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
