"""Reading a WordPress export: what is taken, what is skipped and told of, and what is refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from io import BytesIO, RawIOBase
from pathlib import Path

import psutil
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from services.core.markup import render
from services.ops.importers.html import TAGS_TAKEN, to_markdown
from services.ops.importers.jsonl import read_jsonl
from services.ops.importers.plan import plan
from services.ops.importers.records import (
    CommentRefused,
    ImportedComment,
    ImportedThread,
    ImportRefused,
    Noted,
    Record,
    Skipped,
)
from services.ops.importers.wxr import ThreadKey, read_wxr

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<rss version="2.0" xmlns:wp="http://wordpress.org/export/1.2/"'
    ' xmlns:excerpt="http://wordpress.org/export/1.2/excerpt/"><channel>'
    "<title>A site</title><link>https://site.example</link><wp:wxr_version>1.2</wp:wxr_version>\n"
)
TAIL = "</channel></rss>\n"
LINK = "https://site.example/2024/05/on-bees/"


def author_id(address: str, name: str) -> str:
    return hashlib.sha256(f"{address}\0{name}".encode()).hexdigest()


def comment(number: int | str, body: str = "Hello.", **fields: str) -> str:
    given = {
        "author": "Ann",
        "author_email": "Ann@Site.Example",
        "author_IP": "192.0.2.1",
        "date": "2024-05-01 12:00:00",
        "date_gmt": "2024-05-01 10:00:00",
        "approved": "1",
        "type": "",
        "parent": "0",
        "user_id": "0",
    } | fields
    inner = "".join(f"<wp:comment_{name}>{value}</wp:comment_{name}>" for name, value in given.items())
    return (
        f"<wp:comment><wp:comment_id>{number}</wp:comment_id>{inner}"
        f"<wp:comment_content><![CDATA[{body}]]></wp:comment_content>"
        "<wp:commentmeta><wp:meta_key>k</wp:meta_key><wp:meta_value>v</wp:meta_value></wp:commentmeta>"
        "</wp:comment>\n"
    )


def item(*comments: str, link: str = LINK, title: str = "On bees", post_id: str = "42") -> str:
    number = f"<wp:post_id>{post_id}</wp:post_id>"
    return f"<item><title>{title}</title><link>{link}</link>{number}{''.join(comments)}</item>"


def export(*items: str) -> bytes:
    return (HEAD + "".join(items) + TAIL).encode()


def records(data: bytes, key: ThreadKey = "path") -> list[Record]:
    return list(read_wxr(BytesIO(data), key=key, author_id=author_id))


def comments(data: bytes, key: ThreadKey = "path") -> list[ImportedComment]:
    return [record for record in records(data, key) if isinstance(record, ImportedComment)]


def reasons(data: bytes) -> list[tuple[str, str]]:
    return [(record.where, record.reason) for record in records(data) if isinstance(record, Skipped)]


def until_refused(stream: BytesIO | Generated) -> tuple[list[Record], ImportRefused]:
    found: list[Record] = []
    with pytest.raises(ImportRefused) as caught:
        found.extend(read_wxr(stream, author_id=author_id))  # type: ignore[arg-type]
    return found, caught.value


class Generated(RawIOBase):
    """A file that is made while it is read, so that no test holds it."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        while len(self._rest) < size and (part := next(self._parts, None)) is not None:
            self._rest += part
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def test_a_thread_comes_before_its_comments_and_these_keep_author_time_and_parent() -> None:
    found = records(export(item(comment(7), comment(9, "Two\n\nparts", parent="7", user_id="3"))))

    assert found == [
        ImportedThread("2024/05/on-bees", "On bees", LINK),
        ImportedComment(
            source_id="7",
            parent_source_id=None,
            thread_key="2024/05/on-bees",
            author_id="import:" + author_id("ann@site.example", "Ann"),
            author_name="Ann",
            created_at=datetime(2024, 5, 1, 10, 0, tzinfo=UTC),
            body="Hello.",
        ),
        ImportedComment(
            source_id="9",
            parent_source_id="7",
            thread_key="2024/05/on-bees",
            author_id="import:3",
            author_name="Ann",
            created_at=datetime(2024, 5, 1, 10, 0, tzinfo=UTC),
            body="Two\n\nparts",
        ),
    ]


def test_an_address_is_in_no_record() -> None:
    assert "site.example" not in repr(comments(export(item(comment(1), comment(2, author="")))))


def test_a_nameless_author_is_anonymous() -> None:
    assert comments(export(item(comment(1, author=" "))))[0].author_name == "Anonymous"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"approved": "spam"}, "spam"),
        ({"approved": "trash"}, "trash"),
        ({"approved": "post-trashed"}, "trash"),
        ({"approved": "0"}, "unapproved"),
        ({"type": "pingback"}, "pingback"),
        ({"type": "trackback"}, "trackback"),
        ({"type": "order_note"}, "of another type than comment"),
        ({"date": "", "date_gmt": "yesterday"}, "the date is not one"),
        ({"date": "2024-02-30 10:00:00", "date_gmt": "0000-00-00 00:00:00"}, "the date is not one"),
        ({"date_gmt": "1969-12-31 23:59:59"}, "the date is before 1970"),
        ({"parent": "a b\u00e9"}, "the comment_parent is not an id"),
        ({"author": "n" * 101}, "the author's name is longer than 100 characters"),
        ({"author_email": "e" * 5_000}, "the comment_author_email is far over its limit"),
    ],
)
def test_what_is_not_taken_is_skipped_by_kind_and_the_rest_goes_on(
    fields: dict[str, str], reason: str
) -> None:
    data = export(item(comment(1, **fields), comment(2)))

    assert reasons(data) == [("comment 1", reason)]
    assert [found.source_id for found in comments(data)] == ["2"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "the body is empty"),
        ("<p> </p>", "the body is empty"),
        ("x" * 10_001, "the body is longer than 10,000 characters"),
        ("x" * 200_000, "the body is far over its limit"),
        ("<b>" * (TAGS_TAKEN + 1), "the body has too many tags"),
        ("<b>" * 900 + "x", "the body nests its tags too deep"),
    ],
)
def test_a_body_that_the_log_does_not_take_is_reported(body: str, reason: str) -> None:
    assert reasons(export(item(comment(1, body)))) == [("comment 1", reason)]


@pytest.mark.parametrize("number", ["", "0", "a\u00e9", "1" * 200])
def test_a_comment_without_a_usable_id_is_skipped_by_its_place(number: str) -> None:
    ((where, reason),) = reasons(export(item(comment(number))))

    assert where in {"item 1, its comment 1", "comment 0"}
    assert reason == "the comment_id is not an id"


def test_the_local_time_serves_where_the_other_is_missing() -> None:
    (found,) = comments(export(item(comment(1, date_gmt="0000-00-00 00:00:00"))))

    assert found.created_at == datetime(2024, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "link", "key"),
    [
        ("path", "https://site.example/a/b/", "a/b"),
        ("path", "https://site.example/caf%C3%A9%2Fx#top", "caf\u00e9/x"),
        ("link", "https://site.example/?p=7", "https://site.example/?p=7"),
        ("post_id", "", "42"),
    ],
)
def test_a_thread_is_known_by_path_link_or_number(kind: ThreadKey, link: str, key: str) -> None:
    assert comments(export(item(comment(1), link=link)), kind)[0].thread_key == key


@pytest.mark.parametrize(
    "link",
    [
        "",
        "https://site.example/",
        "https://site.example/?p=7",
        "https://site.example/%FF",
        "https://site.example/%zz",
        "https://site.example/" + "x" * 513,
        "https://site.example/%00",
        "https://site.example/..",
        "http://[x/y",
    ],
)
def test_comments_of_an_item_without_a_key_are_each_skipped(link: str) -> None:
    data = export(item(comment(1), comment(2), link=link))

    assert [where for where, _ in reasons(data)] == ["comment 1", "comment 2"]
    assert not comments(data)


def test_a_comment_before_its_items_link_is_skipped_and_one_behind_it_is_taken() -> None:
    data = export(f"<item>{comment(1)}<link>{LINK}</link>{comment(2)}</item>")

    assert reasons(data) == [("comment 1", "stands before its item's link or number")]
    assert [found.source_id for found in comments(data)] == ["2"]


def test_a_title_over_the_limit_is_left_out_and_noted() -> None:
    found = records(export(item(comment(1), title="t" * 301)))

    assert found[0] == Noted("item 1", "title left out: the title is longer than 300 characters")
    assert found[1] == ImportedThread("2024/05/on-bees", None, LINK)


def test_an_item_without_comments_that_are_taken_is_no_thread() -> None:
    assert records(export(item(), item(comment(1, approved="spam"), link=LINK + "2"))) == [
        Skipped("comment 1", "spam")
    ]


BOMB = (
    '<!DOCTYPE rss [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "declaration",
    [
        BOMB,
        '<!DOCTYPE rss [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE rss SYSTEM "http://127.0.0.1:9/evil.dtd">',
        '<!DOCTYPE rss [<!ENTITY % p SYSTEM "http://127.0.0.1:9/evil.dtd"> %p;]>',
        "<!DOCTYPE rss>",
    ],
)
def test_a_document_type_is_refused_before_anything_is_read(declaration: str) -> None:
    data = export(item(comment(1, author="&a;"))).replace(b"<rss", declaration.encode() + b"<rss", 1)

    found, refused = until_refused(BytesIO(data))

    assert found == []
    assert refused.reason == "declares a document type, which no export does"


def test_an_undeclared_entity_is_damage() -> None:
    _, refused = until_refused(BytesIO(export(item(comment(1, author="a&nbsp;b")))))

    assert "nbsp" in refused.reason


def test_a_truncated_file_yields_what_is_whole_and_then_says_where_it_ends() -> None:
    data = export(item(comment(1), comment(2), comment(3)))
    cut = data[: data.index(b"<wp:comment_id>3") + 5]

    found, refused = until_refused(BytesIO(cut))

    assert [record.source_id for record in found if isinstance(record, ImportedComment)] == ["1", "2"]
    assert refused.reason.startswith("damaged XML")
    assert refused.where.startswith("line 5")


def test_bytes_of_another_encoding_are_damage_and_not_guessed_at() -> None:
    data = export(item(comment(1), comment(2, "caf@"))).replace(b"caf@", b"caf\xe9")

    found, refused = until_refused(BytesIO(data))

    assert [record.source_id for record in found if isinstance(record, ImportedComment)] == ["1"]
    assert refused.where.startswith("line 4")


def test_a_declared_encoding_is_honoured() -> None:
    text = export(item(comment(1, "caf\u00e9"))).decode().replace("UTF-8", "ISO-8859-1")

    assert comments(text.encode("latin-1"))[0].body == "caf\u00e9"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x01\x02",
        b"not XML",
        b"<html><body/></html>",
        b"<rss><channel><item><title>x</title></item></channel></rss>",
        b"<rss><channel/></rss>",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_what_is_no_export_is_refused(data: bytes) -> None:
    assert until_refused(BytesIO(data))[0] == []


def test_control_characters_never_reach_a_body() -> None:
    until_refused(BytesIO(export(item(comment(1, "a\x00b")))))
    until_refused(BytesIO(export(item(comment(1, "a\x08b")))))
    assert reasons(export(item(comment(1, "a\x85b")))) == [
        ("comment 1", "the body holds a control character")
    ]


def test_a_file_of_many_comments_in_one_item_is_read_in_flat_memory() -> None:
    count, body = 20_000, "some words, " * 150
    head, tail = export(item(comment("@"))).split(comment("@").encode())

    def parts() -> Iterator[bytes]:
        yield head
        for number in range(1, count + 1):
            yield comment(number, body, parent=str(number - 1)).encode()
        yield tail

    # Resident memory, since libxml2's is not Python's to trace. The file has 46 MiB.
    process = psutil.Process()
    taken, before, most = 0, 0, 0
    for record in read_wxr(Generated(parts()), author_id=author_id):  # type: ignore[arg-type]
        taken += isinstance(record, ImportedComment)
        if taken % 500 == 0:
            now = process.memory_info().rss
            before = before or now
            most = max(most, now)

    assert taken == count
    assert most - before < 8 * 1024 * 1024


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("One\n\n\nTwo", "One\n\nTwo"),
        ("line\r\nnext", "line\\\nnext"),
        ("line<br />\nnext", "line\\\nnext"),
        ("a<br><br>b<br>", "a\n\nb"),
        ("<p>One</p>\n<p>Two</p>", "One\n\nTwo"),
        ("<em>a</em> and <strong>b</strong>, <del>c</del>", "*a* and **b**, ~~c~~"),
        ("<i>a\n\nb</i>", "*a*\n\n*b*"),
        (
            'see <a href="https://x.example/a_(b)">it [1]</a>.',
            "see [it \\[1\\]](https://x.example/a_%28b%29).",
        ),
        ('<a href="javascript:alert(1)">x</a>', "x"),
        ("<blockquote>said\nso</blockquote>no", "> said\\\n> so\n\nno"),
        ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
        ("<code>a * b</code>", "`a * b`"),
        ("<pre>a\n  *b*</pre>", "```\na\n  *b*\n```"),
        ('<img src="http://x.example/i.png" alt="a bee">', "a bee"),
        ("<script>alert(1)</script>ok", "ok"),
        ("AT&amp;T &lt;b&gt; &copy;", "AT&T \\<b> \u00a9"),
        ("https://x.example/?a=1&b=2", "https://x.example/?a=1&b=2"),
        ("a * b_c_d _e_", "a \\* b_c_d \\_e\\_"),
        ("# no\n1. no\n- no\n> no\n---", "\\# no\\\n1\\. no\\\n\\- no\\\n\\> no\\\n\\---"),
        ("a <3 b, 3 - 2 = 1 + 0 | [sic] C:\\dir", "a <3 b, 3 - 2 = 1 + 0 | [sic] C:\\dir"),
        ("[x](y) ![x](y) [x]: y", "[x\\](y) ![x\\](y) [x\\]: y"),
    ],
)
def test_html_becomes_the_markdown_that_renders_like_it(html: str, markdown: str) -> None:
    assert to_markdown(html) == markdown


@given(st.text("ab 1.#*_`~[]()!<>&;:-+=|\\\n\"'/", max_size=30))
def test_plain_text_reads_the_same_once_it_is_rendered(text: str) -> None:
    shown = BeautifulSoup(render(to_markdown(escape(text, quote=False))), "html.parser")

    assert "".join(shown.get_text().split()) == "".join(text.split())
    assert {tag.name for tag in shown.find_all()} <= {"p", "br"}


def test_a_list_that_would_take_long_to_convert_is_refused() -> None:
    with pytest.raises(CommentRefused):
        to_markdown("<ol>" + "<li>" * 10_000)


@pytest.fixture
def seed() -> Path:
    if not (SHARED / "seed_thread.wxr.xml").exists():
        if os.environ.get("CI"):
            pytest.fail(f"{SHARED} is missing")
        pytest.skip("the shared data is not here")
    return SHARED


def test_both_shared_files_give_the_same_tree(seed: Path) -> None:
    with (seed / "seed_thread.wxr.xml").open("rb") as export_file:
        from_wxr = list(read_wxr(export_file, author_id=author_id))
    thread = from_wxr[0]
    assert isinstance(thread, ImportedThread)
    with (seed / "seed_thread.jsonl").open("rb") as lines:
        from_jsonl = list(read_jsonl(lines, thread_key=thread.key, author_id=author_id))

    left = [record for record in from_wxr[1:] if isinstance(record, ImportedComment)]
    right = [record for record in from_jsonl if isinstance(record, ImportedComment)]
    assert (len(from_wxr), len(left), len(right), len(from_jsonl)) == (19, 18, 18, 18)

    def shape(found: list[ImportedComment]) -> list[object]:
        return [
            (step.event_id, step.parent_id, step.depth, step.comment.source_id, step.comment.created_at)
            for step in plan(found, site="seed")
            if not isinstance(step, Skipped)
        ]

    assert shape(left) == shape(right)
    assert len(shape(left)) == 19  # a placeholder for the comment that the page no longer has
    assert [found.author_name for found in left] == [found.author_name for found in right]
    for one, other in zip(left, right, strict=True):
        # The export's text is HTML, in which an asterisk is nothing but an asterisk.
        assert one.body.replace("\\*", "*") == other.body
