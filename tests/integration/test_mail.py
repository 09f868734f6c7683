"""Mails as their readers get them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from services.eventlog.contacts import ASKED
from services.eventlog.deliveries import Dead, Dropped, Later, Sent
from services.eventlog.mailing import SHOWN
from tests.integration.api_client import SITE, S, T
from tests.integration.mailing import STORY, TITLE, URL, Post, post_of
from tests.mailbox import BASE, FROM, part
from tests.writer import new_id


@pytest.fixture
async def post(database_url: str, redis_url: str, broker_url: str) -> AsyncIterator[Post]:
    async with post_of(database_url, redis_url, broker_url) as made:
        yield made


async def at_once(post: Post, who: str = "ann") -> None:
    await post.preferences.change(SITE, who, {"mail": "now"})


async def test_a_reply_comes_by_mail_in_text_and_html(post: Post) -> None:
    await at_once(post)
    [reply] = await post.talk("I *agree* <b>.")
    await post.told()
    mail = await post.one()
    [delivery] = await post.entered()
    assert (delivery["state"], delivery["kind"], delivery["attempts"]) == ("sent", "notification", 1)
    assert post.box.envelopes == [(FROM, ["ann@example.org"])]
    assert (mail["From"], mail["To"]) == (f"{SITE} <{FROM}>", "ann@example.org")
    assert mail["Subject"] == f"{TITLE}: bob replied to your comment"
    assert mail["Message-ID"] == f"<{delivery['delivery_id']}@mail.example>"
    assert mail["References"] == mail["In-Reply-To"] == f"<thread.{STORY}@mail.example>"
    assert mail["List-Id"] == f"<{SITE}.mail.example>"
    text, html = part(mail, "plain"), part(mail, "html")
    link = f"{URL}#comment-{reply['id']}"
    assert "I *agree* <b>." in text
    assert f"\n{link}\n" in text.replace("\r\n", "\n")
    assert reply["html"] in html
    assert f'href="{link}"' in html
    assert "Talk &amp; therapy" in html


async def test_a_mail_has_a_button_that_ends_them(post: Post) -> None:
    await at_once(post)
    await post.talk("a word")
    await post.told()
    mail = await post.one()
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    url = str(mail["List-Unsubscribe"]).strip("<>")
    assert url.startswith(f"{BASE}{S}/unsubscribe?token=")
    assert url in part(mail, "plain")
    # As a mail program does it (RFC 8058): no cookie, no sign-in.
    answer = await post.client.send(
        "POST",
        url.removeprefix(BASE),
        data=b"List-Unsubscribe=One-Click",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status == 200
    assert (await post.preferences.of(SITE, "ann")).mail == "off"


async def test_a_mail_is_in_the_site_s_language(post: Post) -> None:
    await post.client.send("PATCH", f"{S}/settings", {"language": "de"}, sub="root", roles=("admin",))
    await at_once(post)
    await post.talk("a word")
    await post.told()
    mail = await post.one()
    assert mail["Subject"] == f"{TITLE}: bob hat auf deinen Kommentar geantwortet"
    assert "Weniger Mails" in part(mail, "html")
    assert '<html lang="de">' in part(mail, "html")


async def test_a_language_that_there_is_none_of_is_refused(post: Post) -> None:
    answer = await post.client.send(
        "PATCH", f"{S}/settings", {"language": "xx"}, sub="root", roles=("admin",)
    )
    assert (answer.status, answer.code) == (422, "invalid")


async def test_a_site_s_own_template_takes_the_place_of_ours_and_ours_that_of_one_that_fails(
    post: Post,
) -> None:
    await post.templates.put(SITE, "notification.subject", "{{ item.actor }} auf {{ site }}")
    await post.templates.put(SITE, "notification.txt", "{{ item.gone }}")
    await at_once(post)
    await post.talk("a word")
    await post.told()
    mail = await post.one()
    assert mail["Subject"] == f"bob auf {SITE}"
    assert "bob replied to your comment" in part(mail, "plain")


async def test_a_digest_tells_of_what_is_unread_and_of_nothing_twice(post: Post) -> None:
    await post.talk("first", "second", "third")
    await post.told()
    [delivery] = await post.entered()
    assert delivery["kind"] == "digest"
    second = await post.pool.fetchval(
        "select notification_id from notifications order by notification_id offset 1 limit 1"
    )
    await post.pool.execute("update notifications set read_at = now() where notification_id = $1", second)
    mail = await post.one()
    assert mail["Subject"] == f"{SITE}: 2 notifications"
    text = part(mail, "plain")
    assert [one for one in ("first", "second", "third") if f"\n{one}\n" in text] == ["first", "third"]
    assert text.index("third") < text.index("first")
    # The next one has the next ones.
    # An hour later: another id, by which this one's content is not known.
    await post.pool.execute("update deliveries set delivery_id = gen_random_uuid()")
    await post.pool.execute("update notifications set mailed_in = $1 where mailed_in is not null", uuid4())
    await post.talk("fourth")
    await post.told()
    await post.sent()
    assert str(post.box.mails[1]["Subject"]) == "bob replied to your comment"
    assert "fourth" in part(post.box.mails[1], "plain")
    assert "first" not in part(post.box.mails[1], "plain")


async def test_a_digest_that_is_tried_again_tells_of_the_same_under_the_same_id(post: Post) -> None:
    await post.talk("first")
    await post.told()
    [delivery] = await post.due()
    assert await post.channel.send(delivery) == Sent()
    # Its sender dies before that is recorded; meanwhile more is told, and some of it read.
    await post.talk("second")
    await post.told()
    await post.pool.execute("update notifications set read_at = now() where mailed_in is not null")
    assert await post.channel.send(delivery) == Sent()
    assert len(set(post.box.ids)) == 1
    for mail in post.box.mails:
        assert "first" in part(mail, "plain")
        assert "second" not in part(mail, "plain")


async def test_a_large_digest_shows_the_newest_and_counts_the_others(post: Post) -> None:
    await post.talk("the oldest", "the newest")
    await post.told()
    copies = [new_id() for _ in range(SHOWN + 4)]
    await post.pool.execute(
        "insert into notifications (site, recipient_id, notification_id, event_id, stream_id, comment_id, "
        "reason, created_at) select site, recipient_id, id, id, stream_id, comment_id, reason, created_at "
        "from (select * from notifications order by notification_id desc limit 1) n, unnest($1::uuid[]) id",
        copies,
    )
    mail = await post.one()
    assert mail["Subject"] == f"{SITE}: {SHOWN + 6} notifications"
    text = part(mail, "plain")
    assert text.count("\nthe newest\n") == SHOWN
    assert "the oldest" not in text
    assert "And 6 more, in your inbox." in text
    assert await post.pool.fetchval("select count(*) from notifications where mailed_in is null") == 0


@pytest.mark.parametrize("kind", ["notification", "digest"])
async def test_what_may_not_be_seen_any_more_is_not_in_a_mail(post: Post, kind: str) -> None:
    if kind == "notification":
        await at_once(post)
    [reply] = await post.talk("a rude word")
    await post.told()
    await post.client.send("DELETE", f"{T}/comments/{reply['id']}", sub="mia", roles=("moderator",))
    assert await post.sent() == [Dropped("nothing of it may be shown any more")]
    assert post.box.mails == []
    assert [one["state"] for one in await post.entered()] == ["dropped"]


async def test_a_digest_leaves_out_what_is_gone_and_what_was_muted(post: Post) -> None:
    [rude, _] = await post.talk("a rude word", "a kind word")
    await post.talk("elsewhere", thread="other")
    await post.told()
    await post.told("other")
    await post.client.send("DELETE", f"{T}/comments/{rude['id']}", sub="mia", roles=("moderator",))
    await post.client.send("PUT", f"{S}/threads/other/subscription", {"level": "muted"}, sub="ann")
    text = part(await post.one(), "plain")
    assert "a kind word" in text
    assert "rude" not in text
    assert "elsewhere" not in text


async def test_an_edited_comment_comes_as_it_is_when_the_mail_is_sent(post: Post) -> None:
    await at_once(post)
    [reply] = await post.talk("a wrod")
    await post.told()
    edited = await post.client.send(
        "PATCH", f"{T}/comments/{reply['id']}", {"body": "a word"}, sub="bob", headers={"If-Match": '"1"'}
    )
    # The view is brought up to it, as the projector would.
    await post.client.get(f"{T}/comments?min_version={edited.version}")
    assert "a word" in part(await post.one(), "plain")


async def test_whoever_turned_mail_off_or_read_it_meanwhile_gets_none(post: Post) -> None:
    await at_once(post)
    await post.talk("one")
    await post.told()
    await post.preferences.change(SITE, "ann", {"mail": "off"})
    assert await post.sent() == [Dropped("mail was turned off")]
    await at_once(post)
    await post.talk("two")
    await post.told()
    await post.pool.execute("update notifications set read_at = now()")
    assert await post.sent() == [Dropped("it was read before it was sent")]
    assert post.box.mails == []


async def test_mail_waits_for_the_end_of_quiet_hours(post: Post) -> None:
    await at_once(post)
    now = datetime.now(UTC)
    since, to = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (-2, 2))
    await post.preferences.change(SITE, "ann", {"quiet": {"from": since, "to": to, "zone": "UTC"}})
    await post.talk("one")
    await post.told()
    [outcome] = await post.sent()
    assert isinstance(outcome, Later)
    assert timedelta(hours=1, minutes=58) < outcome.at - now < timedelta(hours=2, seconds=1)
    [delivery] = await post.entered()
    assert (delivery["state"], delivery["attempts"], delivery["next_at"]) == ("pending", 0, outcome.at)
    await post.preferences.change(SITE, "ann", {"quiet": None})
    assert await post.sent() == [Sent()]


async def test_a_destroyed_key_takes_the_address_with_it(post: Post) -> None:
    await at_once(post)
    await post.talk("one")
    await post.told()
    [delivery] = await post.due()
    await post.client.send("DELETE", f"{S}/me", sub="ann")
    post.client.running.resources.keyring._looked = 0.0
    assert await post.channel.send(delivery) == Dropped("there is no address to send it to")
    assert post.box.mails == []


async def test_an_address_that_was_given_gets_mail_once_it_was_confirmed(post: Post) -> None:
    await post.client.send("PATCH", f"{S}/settings", {"guests": True}, sub="root", roles=("admin",))
    await post.confirmation("guest:gil", "gil@example.org")
    assert await post.sent() == [Sent()]
    [asked] = post.box.mails
    assert asked["To"] == "gil@example.org"
    assert asked["List-Unsubscribe"] is None
    assert await post.contacts.usable(SITE, "guest:gil") is None
    [url] = set(re.findall(rf"{BASE}\S+/confirm\?token=[\w.-]+", part(asked, "plain")))
    for _ in range(2):  # programs that look through mails open links
        assert (await post.client.get(url.removeprefix(BASE))).status == 200
    assert await post.contacts.usable(SITE, "guest:gil") is None
    for _ in range(2):
        assert (await post.client.send("POST", url.removeprefix(BASE))).status == 200
    found = await post.contacts.usable(SITE, "guest:gil")
    assert found is not None
    assert found.email == "gil@example.org"
    # Of an address that was given after it, the link says nothing.
    await post.contacts.keep(SITE, "guest:gil", "given", "another@example.org")
    assert (await post.client.send("POST", url.removeprefix(BASE))).status == 410
    assert await post.contacts.usable(SITE, "guest:gil") is None


async def test_nobody_is_asked_twice_within_the_hour_nor_once_it_is_settled(post: Post) -> None:
    await post.confirmation("bob", "bob@example.org")
    assert not await post.contacts.ask(SITE, "bob", "bob@example.org")
    await post.contacts.keep(SITE, "bob", "given", "new@example.org")
    assert await post.sent() == [Dropped("there is no address to send it to")]
    assert await post.contacts.ask(SITE, "bob", "new@example.org")
    [again] = await post.due()
    found = {one.source: one for one in await post.contacts.all(SITE, "bob")}["given"]
    await post.contacts.confirm(SITE, "bob", found.mac)
    assert await post.channel.send(again) == Dropped("it is confirmed already")
    assert post.box.mails == []


async def test_the_owner_of_a_webhook_is_told_that_it_was_switched_off(post: Post) -> None:
    endpoint = uuid4()
    await post.pool.execute(
        "insert into webhook_endpoints "
        "(endpoint_id, site, url, wrapped, owner, disabled_at, disabled_reason) values "
        "($1, $2, 'https://news.example/hook', '\\x00', 'owner@example.org', now(), 'answered 503')",
        *(endpoint, SITE),
    )
    await post.pool.execute(
        "insert into deliveries (delivery_id, site, channel, kind, endpoint_id, next_at) "
        "values ($1, $2, 'mail', 'endpoint-off', $3, now())",
        *(uuid4(), SITE, endpoint),
    )
    mail = await post.one()
    assert (mail["To"], mail["Subject"]) == ("owner@example.org", f"A webhook was switched off ({SITE})")
    assert "https://news.example/hook" in part(mail, "plain")
    assert "answered 503" in part(mail, "html")


async def test_an_address_that_nobody_could_write_to_is_refused_for_good(post: Post) -> None:
    await at_once(post)
    await post.contacts.keep(SITE, "ann", "token", "ann@no domain")
    await post.talk("one")
    await post.told()
    [outcome] = await post.sent()
    assert isinstance(outcome, Dead)
    assert await post.contacts.usable(SITE, "ann") is None


async def test_a_mail_of_a_newer_release_is_not_sent_as_something_else(post: Post) -> None:
    await at_once(post)
    await post.talk("one")
    await post.told()
    await post.pool.execute("update deliveries set kind = 'carrier-pigeon'")
    assert await post.sent() == [Dead("this release knows no mail of the kind carrier-pigeon")]


async def test_one_address_is_asked_only_so_often_whoever_gives_it(post: Post) -> None:
    for number in range(2 * ASKED):
        await post.contacts.keep(SITE, f"guest:{number}", "given", "Victim@example.org")
    spelled = ("victim@example.org", "Victim@Example.org")
    asked = [await post.contacts.ask(SITE, f"guest:{n}", spelled[n % 2]) for n in range(2 * ASKED)]
    assert asked == [True] * ASKED + [False] * ASKED
    assert len(await post.due()) == ASKED


async def test_whose_comment_was_removed_is_told_by_mail_without_its_text(
    post: Post,
) -> None:
    await post.preferences.change(SITE, "ann", {"mail": "now"})
    await post.contacts.keep(SITE, "ann", "token", "ann@example.org")
    await post.talk()
    [row] = await post.pool.fetch("select comment_id from comments")
    path = f"/v1/sites/{SITE}/threads/story/comments/{row['comment_id']}"
    removed = await post.client.send("DELETE", path, sub="mod", roles=("moderator",))
    assert removed.status == 204
    await post.told()
    mail = await post.one()
    text = part(mail, "plain")
    assert TITLE in text
    assert "a question" not in text
    assert "None" not in text
