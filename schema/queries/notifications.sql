-- name: notifier_checkpoint
-- How far the notifier is in stream $1. The row is locked until the transaction ends: of two notifiers the
-- second waits, and then sees where the first one left it.
select version from notifier_checkpoints where stream_id = $1 for update;

-- name: open_notifier_checkpoint
insert into notifier_checkpoints (stream_id, version) values ($1, 0) on conflict do nothing;

-- name: move_notifier_checkpoint
-- Compare-and-set: from version $2 to $3, or not at all.
update notifier_checkpoints set version = $3 where stream_id = $1 and version = $2 returning version;

-- name: silence_streams
-- Nobody is told of what the streams $1 hold up to the versions $2.
insert into notifier_checkpoints as c (stream_id, version, silent)
select stream_id, version, version from unnest($1::uuid[], $2::bigint[]) as s (stream_id, version)
on conflict (stream_id) do update set
    version = greatest(c.version, excluded.version), silent = greatest(c.silent, excluded.silent);

-- name: notified
-- Those of the streams $1 that are threads: how far the notifier is in each (null: it never came by) and the names in
-- it are, and what of its site the notifier must know.
select asked.stream_id, s.site, k.version, coalesce(k.named, 0) as named,
    coalesce((own.settings ->> 'follow_on_post')::boolean, false) as follows,
    coalesce((
        select true from preferences p where p.site = s.site and p.reasons @> '{"ancestor": true}' limit 1
    ), false) as asks,
    exists (select from webhook_endpoints w where w.site = s.site and w.disabled_at is null) as hooked
from unnest($1::uuid[]) as asked (stream_id)
cross join lateral (
    select site from streams where stream_id = asked.stream_id and key is not null offset 0
) as s
left join notifier_checkpoints k on k.stream_id = asked.stream_id
left join sites on sites.site = s.site
left join lateral (select settings from streams where stream_id = sites.stream_id offset 0) as own on true;

-- name: notifiable
-- The events of stream $1[n] after version $2[n], at most $3 of each. The types $4 are read, and opened if they are of
-- the types $5; of the others it counts which they are.
select e.stream_id, e.version, e.event_id, e.type, e.schema_version, e.actor_id, e.correlation_id, e.causation_id,
    e.recorded_at, case when e.type = any($4::text[]) then e.data else ''::bytea end,
    case when e.type = any($5::text[]) then e.sealed end, case when e.type = any($5::text[]) then e.key_id end,
    ''::bytea, e.lane, e.position
from unnest($1::uuid[], $2::bigint[]) as asked (stream_id, after)
cross join lateral (
    select * from events where stream_id = asked.stream_id and version > asked.after order by version limit $3
) as e;

-- name: open_notifier_checkpoints
insert into notifier_checkpoints (stream_id, version)
select stream_id, 0 from unnest($1::uuid[]) as n (stream_id) order by stream_id
on conflict do nothing;

-- name: lock_notifier_checkpoints
-- As notifier_checkpoint, of the streams $1, always in the same order.
select stream_id, version, named from notifier_checkpoints
where stream_id = any($1::uuid[]) order by stream_id for update;

-- name: move_notifier_checkpoints
-- Of the streams $1, which are locked: to the versions $2, with the names up to $3.
update notifier_checkpoints k set version = n.version, named = n.named
from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as n (stream_id, version, named)
where k.stream_id = n.stream_id;

-- name: standings
-- How the comments $1 stand now, and what lies above them: a path ends with the parent.
select c.comment_id, c.stream_id, c.author_id, c.state, c.path, (
    select p.author_id from comments p
    where p.comment_id = encode(substring(c.path from octet_length(c.path) - 15), 'hex')::uuid
        and octet_length(c.path) >= 16
) as parent_author
from comments c where c.comment_id = any($1::uuid[]);

-- name: ancestors_who_ask
-- Those of the comments $1 whose authors want to be told of what is written below them.
select c.comment_id, c.author_id
from unnest($1::uuid[]) as asked (comment_id)
cross join lateral (
    select comment_id, author_id, site from comments where comment_id = asked.comment_id offset 0
) as c
cross join lateral (
    select reasons from preferences where site = c.site and author_id = c.author_id offset 0
) as p
where p.reasons @> '{"ancestor": true}';

-- name: bearers
-- Who bears the name $2[n] in thread $1[n]: the last of them.
select b.stream_id, b.name_mac, b.author_id, b.version
from (select distinct * from unnest($1::uuid[], $2::bytea[])) as asked (stream_id, name_mac)
cross join lateral (
    select stream_id, name_mac, author_id, version from participants
    where stream_id = asked.stream_id and name_mac = asked.name_mac order by version desc limit 10
) as b
order by b.version;

-- name: mentioned_in
select comment_id, version, people, before from mentioned where comment_id = any($1::uuid[]);

-- name: untold_of
-- The events that brought texts of the comments $2[n] in the threads $1[n], of which nobody was told yet.
select u.stream_id, u.comment_id, u.version, u.event_id, u.people, e.type, e.actor_id, e.recorded_at
from (select distinct * from unnest($1::uuid[], $2::uuid[])) as asked (stream_id, comment_id)
join untold u on u.stream_id = asked.stream_id and u.comment_id = asked.comment_id
join events e on e.stream_id = u.stream_id and e.version = u.version
order by u.version;

-- name: follow_on_post
-- $2[n] follows thread $1[n] of site $3[n] from now on, unless they have chosen for themselves; who does that did not.
insert into subscriptions (stream_id, author_id, site, level)
select stream_id, author_id, site, 'all'
from unnest($1::uuid[], $2::text[], $3::text[]) as n (stream_id, author_id, site)
order by stream_id, author_id
on conflict do nothing
returning stream_id, author_id;

-- name: followers_to_tell
-- The followers of the threads $1, at most $2 of each.
select f.stream_id, f.author_id
from unnest($1::uuid[]) as asked (stream_id)
cross join lateral (
    select stream_id, author_id from subscriptions
    where stream_id = asked.stream_id and level = 'all' order by part, author_id limit $2
) as f;

-- name: wishes
-- What person $3[n] wants to hear in thread $2[n] of site $1[n]; those who have said nothing are left out.
select a.n - 1 as place, s.level, p.reasons, p.blocked,
    a.person like 'guest:%' and exists (
        select from contacts c
        where c.site = a.site and c.author_id = a.person and c.source = 'given'
            and c.confirmed_at is not null and c.refused_at is null
    ) as reached
from unnest($1::text[], $2::uuid[], $3::text[]) with ordinality as a (site, stream_id, person, n)
left join lateral (
    select level from subscriptions where stream_id = a.stream_id and author_id = a.person offset 0
) as s on true
left join lateral (
    select reasons, blocked from preferences where site = a.site and author_id = a.person offset 0
) as p on true
where s.level is not null or p.reasons is not null or a.person like 'guest:%';

-- name: insert_notifications
-- One for each person and event, however often it is told. Who was told of a comment hears of no edit of it.
insert into notifications (
    site, recipient_id, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at
)
select site, recipient_id, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at
from unnest(
    $1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::timestamptz[]
) as n (site, recipient_id, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at)
where n.reason = 'moderation' or n.event_id = n.comment_id or not exists (
    select from notifications t
    where t.recipient_id = n.recipient_id and t.site = n.site and t.event_id = n.comment_id
)
on conflict (recipient_id, site, event_id) do nothing
returning notification_id;

-- name: enter_fanout
-- The followers of thread $1[n] are to be told of event $3[n], in 16 parts.
insert into fanouts (stream_id, site, event_id, part, comment_id, version, actor_id, created_at)
select n.stream_id, n.site, n.event_id, part, n.comment_id, n.version, n.actor_id, n.created_at
from unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::bigint[], $6::text[], $7::timestamptz[])
    as n (stream_id, site, event_id, comment_id, version, actor_id, created_at)
cross join generate_series(0, 15) as part
on conflict do nothing;

-- name: enter_untold_of
insert into untold (stream_id, comment_id, version, event_id, people)
select stream_id, comment_id, version, event_id, array(select jsonb_array_elements_text(people))
from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[], $5::jsonb[])
    as n (stream_id, comment_id, version, event_id, people)
on conflict do nothing;

-- name: end_untold
-- The comments $2[n] of the threads $1[n] were told of, or never will be.
delete from untold u using unnest($1::uuid[], $2::uuid[]) as n (stream_id, comment_id)
where u.stream_id = n.stream_id and u.comment_id = n.comment_id;

-- name: keep_bearers
-- $3[n] bears the name $2[n] in thread $1[n], last at version $4[n].
insert into participants as p (stream_id, name_mac, author_id, version)
select stream_id, name_mac, author_id, version
from unnest($1::uuid[], $2::bytea[], $3::text[], $4::bigint[]) as n (stream_id, name_mac, author_id, version)
on conflict (stream_id, name_mac, author_id) do update set version = greatest(p.version, excluded.version);

-- name: keep_mentioned
insert into mentioned (stream_id, comment_id, version, people, before)
select stream_id, comment_id, version, array(select jsonb_array_elements_text(people)),
    array(select jsonb_array_elements_text(before))
from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::jsonb[], $5::jsonb[])
    as n (stream_id, comment_id, version, people, before)
on conflict (comment_id) do update set
    stream_id = excluded.stream_id, version = excluded.version, people = excluded.people, before = excluded.before;

-- name: end_names
-- The comments $2[n], posted at version $3[n] of stream $1[n], were erased: nobody bears a name by them any more, and
-- they name nobody.
with unnamed as (
    delete from mentioned where comment_id = any($2::uuid[])
)
delete from participants where ctid = any(array(
    select borne.ctid
    from unnest($1::uuid[], $3::bigint[]) as x (stream_id, posted)
    cross join lateral (
        select actor_id from events where stream_id = x.stream_id and version = x.posted offset 0
    ) as e
    cross join lateral (
        select ctid from participants
        where author_id = e.actor_id and stream_id = x.stream_id and version = x.posted offset 0
    ) as borne
));

-- name: inbox_all
-- The notifications of recipient $2 on site $1 before $3, newest first, at most $4.
select n.notification_id, n.event_id, n.reason, n.stream_id, s.key, s.title, s.url, n.comment_id, n.actor_id,
    n.created_at, n.read_at is not null as read
from notifications n join streams s on s.stream_id = n.stream_id
where n.recipient_id = $2 and n.site = $1 and n.notification_id < $3
order by n.notification_id desc limit $4;

-- name: inbox_unread
select n.notification_id, n.event_id, n.reason, n.stream_id, s.key, s.title, s.url, n.comment_id, n.actor_id,
    n.created_at, n.read_at is not null as read
from notifications n join streams s on s.stream_id = n.stream_id
where n.recipient_id = $2 and n.site = $1 and n.notification_id < $3 and n.read_at is null
order by n.notification_id desc limit $4;

-- name: inbox_read
select n.notification_id, n.event_id, n.reason, n.stream_id, s.key, s.title, s.url, n.comment_id, n.actor_id,
    n.created_at, n.read_at is not null as read
from notifications n join streams s on s.stream_id = n.stream_id
where n.recipient_id = $2 and n.site = $1 and n.notification_id < $3 and n.read_at is not null
order by n.notification_id desc limit $4;

-- name: unread
-- Counted up to $3.
select count(*) from (
    select from notifications where recipient_id = $2 and site = $1 and read_at is null limit $3
) as n;

-- name: mark_read
update notifications set read_at = now()
where recipient_id = $2 and site = $1 and notification_id = any($3::uuid[]) and read_at is null;

-- name: mark_read_through
-- At most $4 at once, the newest first.
update notifications set read_at = now()
where recipient_id = $2 and site = $1 and notification_id = any(array(
    select notification_id from notifications
    where recipient_id = $2 and site = $1 and notification_id <= $3 and read_at is null
    order by notification_id desc limit $4
));
