-- What verify reads beside the decision state (state.sql). What looks at every row of a table does so a slice
-- at a time, each slice with the last row it saw, so that none takes longer than a statement may.

-- name: thread_count
-- How many threads there are, of one site ($1) or of all.
select count(*) from streams where key is not null and ($1::text is null or site = $1);

-- name: threads_since
-- Of the $3 streams after $1, in the order of their ids, the threads of site $2 (null: of all) with events
-- since $4; the last of those streams comes with them, whatever it is.
with slice as (
    select stream_id, site, key, version, recorded_at from streams where stream_id > $1 order by stream_id limit $3
), marked as (
    select *, key is not null and ($2::text is null or site = $2) and recorded_at >= $4 as wanted from slice
)
select stream_id, site, key, version, wanted from marked
where wanted or stream_id = (select stream_id from slice order by stream_id desc limit 1)
order by stream_id;

-- name: snapshotted
-- Those of the streams $1 that have a snapshot in format $2.
select distinct stream_id from snapshots where stream_id = any($1::uuid[]) and format = $2;

-- name: wrong_sites
-- Sites whose stream is not the one of that name: their names and streams, to be compared.
select site, stream_id from sites order by site;

-- name: followers
-- How far the notifier is in the streams $1, and where their projections are parked.
select asked.stream_id, k.version as notified,
    (select l.version from dead_letters l where l.projection = 'view' and l.stream_id = asked.stream_id) as view,
    exists (
        select from dead_letters l where l.projection = 'notifications' and l.stream_id = asked.stream_id
    ) as notifier_parked
from unnest($1::uuid[]) as asked (stream_id)
left join notifier_checkpoints k on k.stream_id = asked.stream_id;

-- name: version_by_position
-- The last version of stream $1 at position $2 of its lane or before.
select version from events where stream_id = $1 and position <= $2 order by version desc limit 1;

-- name: lane_ends
-- The lanes as they are stored, and the position of the last event in each that there is or should be. A
-- lane's head and its last event are committed together.
select asked.lane, l.head, (
    select e.position from events e where e.lane = asked.lane order by e.position desc limit 1
) as last, c.position as swept
from generate_series(0, (select value::int - 1 from database_facts where name = 'lanes')) as asked (lane)
left join lanes l on l.lane = asked.lane
left join sweeper_checkpoints c on c.lane = asked.lane
order by asked.lane;

-- name: stray_lanes
-- Rows of lanes that there are not.
select 'lanes' as name, lane from lanes
where lane >= (select value::int from database_facts where name = 'lanes') or lane < 0
union all
select 'sweeper_checkpoints', lane from sweeper_checkpoints
where lane >= (select value::int from database_facts where name = 'lanes') or lane < 0;

-- name: positions_after
-- The positions of lane $1 after $2, at most $3: how many, the first and the last.
select count(*) as events, min(position) as first, max(position) as last, count(distinct position) as places
from (
    select position from events where lane = $1 and position > $2 order by position limit $3
) as slice;

-- name: unlisted_streams
-- Of the $2 streams in the log after $1, those without a row in `streams`, and the last of them.
with recursive walk (stream_id, number) as (
    (select stream_id, 1 from events where stream_id > $1 order by stream_id limit 1)
    union all
    select (
        select e.stream_id from events e where e.stream_id > walk.stream_id order by e.stream_id limit 1
    ), number + 1
    from walk where stream_id is not null and number < $2
), found as (
    select walk.stream_id, exists (select from streams s where s.stream_id = walk.stream_id) as listed
    from walk where walk.stream_id is not null
)
select stream_id, listed from found
where not listed or stream_id = (select stream_id from found order by stream_id desc limit 1)
order by stream_id;

-- name: stray_streams
-- Of the $2 streams after $1, those that have no event, and the last of them.
with slice as (select stream_id from streams where stream_id > $1 order by stream_id limit $2), found as (
    select stream_id, not exists (select from events e where e.stream_id = slice.stream_id) as stray from slice
)
select stream_id, stray from found
where stray or stream_id = (select stream_id from slice order by stream_id desc limit 1) order by stream_id;

-- name: stray_checkpoints
-- Of the $2 notifier checkpoints after $1, those of streams without events, and the last of them.
with slice as (
    select stream_id from notifier_checkpoints where stream_id > $1 order by stream_id limit $2
), found as (
    select stream_id, not exists (select from events e where e.stream_id = slice.stream_id) as stray from slice
)
select stream_id, stray from found
where stray or stream_id = (select stream_id from slice order by stream_id desc limit 1) order by stream_id;

-- name: stray_bearers
-- Of the streams of $2 rows of `participants` behind stream $1, those without events, and the last of them.
with slice as (
    select distinct stream_id from (
        select stream_id from participants where stream_id > $1 order by stream_id limit $2
    ) as part
), found as (
    select stream_id, not exists (select from events e where e.stream_id = slice.stream_id) as stray from slice
)
select stream_id, stray from found
where stray or stream_id = (select stream_id from slice order by stream_id desc limit 1) order by stream_id;

-- name: stray_mentioned
-- As stray_bearers, of `mentioned`.
with slice as (
    select distinct stream_id from (
        select stream_id from mentioned where stream_id > $1 order by stream_id limit $2
    ) as part
), found as (
    select stream_id, not exists (select from events e where e.stream_id = slice.stream_id) as stray from slice
)
select stream_id, stray from found
where stray or stream_id = (select stream_id from slice order by stream_id desc limit 1) order by stream_id;

-- name: named
-- Up to where the names of the streams $1 are folded.
select stream_id, named from notifier_checkpoints where stream_id = any($1::uuid[]);

-- name: bearers_kept
select stream_id, name_mac, author_id, version from participants where stream_id = any($1::uuid[]);

-- name: mentioned_kept
select stream_id, comment_id, version, people, before from mentioned where stream_id = any($1::uuid[]);

-- name: stray_snapshots
-- Of the $3 snapshots after version $2 of stream $1, in the format $4, those of another history than the log's,
-- those with segments of kinds ($5) that nobody reads, and the last.
with slice as (
    select stream_id, version, hash, format from snapshots where (stream_id, version) > ($1, $2)
    order by stream_id, version limit $3
), found as (
    select stream_id, version,
        not exists (
            select from events e
            where e.stream_id = slice.stream_id and e.version = slice.version and e.hash = slice.hash
        ) as stray,
        format = $4 and exists (
            select from snapshot_segments s
            where s.stream_id = slice.stream_id and s.version = slice.version and s.kind <> all($5::text[])
        ) as strange
    from slice
)
select stream_id, version, stray, strange from found
where stray or strange or (stream_id, version) = (
    select stream_id, version from slice order by stream_id desc, version desc limit 1
) order by stream_id, version;

-- name: stray_letters
-- Dead letters that name another event than the log has there, or none.
select l.projection, l.stream_id, l.version, l.event_id, e.event_id as logged
from dead_letters l left join events e on e.stream_id = l.stream_id and e.version = l.version
where e.event_id is distinct from l.event_id;

-- name: untold
-- What is missing or wrong among the notifications that the replies in threads $1 have caused, as far as the
-- notifier has come, behind what was copied in silence: each such reply with its parent's author, and its
-- notification as it is stored. Who erased themselves since has no inbox any more; of who has said what they want
-- to hear (`wished`) nobody knows what it was at the time; and what `waits` is to be told of yet.
select e.stream_id, e.event_id, e.version, e.actor_id, e.recorded_at, s.site, e.parent_id,
    p.actor_id as parent_author, n.notification_id, n.stream_id as told_stream, n.comment_id, n.reason,
    n.actor_id as told_actor, n.created_at,
    coalesce(
        (select true from preferences w where w.site = s.site and w.author_id = p.actor_id limit 1),
        (select true from subscriptions w where w.stream_id = e.stream_id and w.author_id = p.actor_id limit 1),
        false
    ) as wished,
    exists (
        select from untold u
        where u.stream_id = e.stream_id and u.comment_id = e.event_id and u.version = e.version
    ) as waits
from unnest($1::uuid[]) as asked (stream_id)
cross join lateral (select site from streams where stream_id = asked.stream_id offset 0) as s
cross join lateral (
    select version, silent from notifier_checkpoints where stream_id = asked.stream_id offset 0
) as k
cross join lateral (
    select r.stream_id, r.event_id, r.version, r.actor_id, r.recorded_at, (d.data ->> 'parent_id')::uuid as parent_id,
        (d.data ->> 'parent')::bigint as parent
    from events r cross join lateral (select convert_from(r.data, 'UTF8')::jsonb as data offset 0) as d
    where r.stream_id = asked.stream_id and r.version > k.silent and r.version <= k.version
        and r.type = 'ReplyPosted'
        and not d.data ? 'imported'
    offset 0
) as e
cross join lateral (
    select actor_id from events where stream_id = e.stream_id and version = e.parent offset 0
) as p
left join lateral (
    select notification_id, stream_id, comment_id, reason, actor_id, created_at from notifications
    where recipient_id = p.actor_id and site = s.site and event_id = e.event_id offset 0
) as n on true
where p.actor_id <> e.actor_id
    and (n.stream_id, n.comment_id, n.reason, n.actor_id, n.created_at)
        is distinct from (e.stream_id, e.event_id, 'reply', e.actor_id, e.recorded_at)
    and not exists (
        select from erasures x
        where x.site = s.site and x.author_id = p.actor_id and (x.done_at is null or x.done_at >= e.recorded_at)
    )
order by e.stream_id, e.version;

-- name: stray_notifications
-- Of the $4 notifications after $3 of recipient $1 on site $2, those that the event they name has not caused, or not
-- so, and the last of them.
with slice as (
    select recipient_id, site, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at
    from notifications
    where (recipient_id, site, notification_id) > ($1, $2, $3)
    order by recipient_id, site, notification_id limit $4
)
select * from (
    select n.recipient_id, n.site, n.notification_id, n.event_id, caused.type is null or (
        caused.site <> n.site or caused.recorded_at <> n.created_at
        or caused.actor_id is not distinct from n.recipient_id
        or case n.reason
            when 'moderation' then
                caused.type not in ('CommentHidden', 'CommentRemoved') or n.actor_id is not null
                or caused.author_id is distinct from n.recipient_id
            else n.actor_id is distinct from caused.actor_id or caused.imported or case n.reason
                when 'reply' then caused.type <> 'ReplyPosted' or caused.parent_author <> n.recipient_id
                when 'mention' then not (
                    caused.type in ('CommentPosted', 'ReplyPosted', 'CommentEdited')
                    and n.recipient_id = any(caused.people)
                )
                when 'follow' then caused.type not in ('CommentPosted', 'ReplyPosted')
                when 'ancestor' then caused.type <> 'ReplyPosted'
                else true
            end
        end
    ) as is_stray
    from slice n left join lateral (
        select e.type, e.actor_id, e.recorded_at, s.site, d.data ? 'imported' as imported, a.actor_id as author_id,
            coalesce(p.actor_id, '') as parent_author,
            coalesce(
                (select m.people || m.before from mentioned m where m.comment_id = c.comment_id),
                array[n.recipient_id]
            ) as people
        from comments c
        join streams s on s.stream_id = c.stream_id
        join events a on a.stream_id = c.stream_id and a.version = c.posted
        cross join lateral (
            select a.* where n.event_id = c.comment_id
            union all (
                select e.* from events e
                where n.event_id <> c.comment_id and e.stream_id = c.stream_id and e.event_id = n.event_id
                    and e.version > c.posted and e.version <= c.version
                    and e.type in ('CommentEdited', 'CommentHidden', 'CommentRemoved')
                limit 1
            )
        ) as e
        cross join lateral (select convert_from(e.data, 'UTF8')::jsonb as data offset 0) as d
        left join events p on p.stream_id = c.stream_id and p.version = c.parent and c.parent > 0
        where c.comment_id = n.comment_id and c.stream_id = n.stream_id
            and coalesce(d.data ->> 'comment_id', c.comment_id::text) = c.comment_id::text
        offset 0
    ) as caused on true
) as n
where is_stray or (recipient_id, site, notification_id) = (
    select recipient_id, site, notification_id from slice
    order by recipient_id desc, site desc, notification_id desc limit 1
)
order by recipient_id, site, notification_id;

-- name: unerased
-- Erasures that are done, and yet: a key that lives, comments that are not erased, or another number of them.
select x.erasure_id, x.site, x.comments, found.living, found.sealed, found.standing
from erasures x cross join lateral (
    select
        exists (select from author_keys k where k.key_id = x.key_id and k.wrapped is not null) as living,
        (select count(*) from comments c where c.key_id = x.key_id) as sealed,
        (select count(*) from comments c where c.key_id = x.key_id and c.state <> 'erased') as standing
    offset 0
) as found
where x.done_at is not null
    and (found.living or found.standing > 0 or found.sealed is distinct from x.comments)
order by x.number;
