"""Counting the links of a comment."""

from __future__ import annotations

import pytest

from services.core.links import links_in
from services.core.markup import render


@pytest.mark.parametrize(
    ("body", "links"),
    [
        ("No link at all.", 0),
        ("One: https://a.example/b", 1),
        ("[named](https://a.example) and <https://b.example> and https://c.example", 3),
        ("https://a.example/1 https://a.example/2", 2),
        ("twice https://a.example, [again](https://a.example)", 1),
        ("https://a.example/#one https://a.example/#two", 1),
        ("<ann@a.example>", 1),
        ("by reference [a][r] [b][r]\n\n[r]: https://a.example", 1),
        ("`[code](https://a.example)`", 0),
        ("    https://in-a-code-block.example", 0),
        ('typed as HTML: <a href="https://a.example">', 0),
        ("[dead](javascript:alert(1)) [dead](data:text/html,x)", 0),
        ("![image](https://a.example/x.png)", 0),
        ("https://a.example/?a=1&b=2 https://a.example/?a=1&b=3", 2),
    ],
)
def test_links_are_counted_as_they_are_shown(body: str, links: int) -> None:
    assert links_in(render(body)) == links


def test_many_links_are_counted_once_each() -> None:
    body = " ".join(f"https://{n}.example https://{n}.example" for n in range(200))
    assert links_in(render(body)) == 200
