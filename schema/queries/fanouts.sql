-- name: claim_fanout
-- A part of thread $1's fan-outs that nobody is at, the oldest first. Whoever holds the row tells its followers.
select event_id, part, site, comment_id, version, actor_id, created_at, after
from fanouts where stream_id = $1
order by entered_at, event_id, part limit 1
for update skip locked;

-- name: tell_followers
-- One chunk: the followers of thread $1 in part $2 behind $3, at most $4, are told of the event $5 about comment $6
-- that $7 caused at $8, on site $9. An id is a UUIDv7 of now, as all of an inbox are.
with followers as materialized (
    select author_id from subscriptions
    where stream_id = $1 and part = $2 and level = 'all' and author_id > $3
    order by author_id limit $4
), told as (
    insert into notifications (
        site, recipient_id, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at
    )
    select $9, f.author_id, encode(
            set_bit(set_bit(
                overlay(
                    uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6
                ), 52, 1
            ), 53, 1), 'hex'
        )::uuid, $5, $1, $6, 'follow', $7, $8
    from followers f left join preferences p on p.site = $9 and p.author_id = f.author_id
    where f.author_id is distinct from $7
        and coalesce((p.reasons->>'follow')::boolean, true)
        and not coalesce($7 = any(p.blocked), false)
    on conflict (recipient_id, site, event_id) do nothing
    returning recipient_id, notification_id
)
select (select count(*) from followers) as seen, (select max(author_id) from followers) as last,
    array_agg(recipient_id) as recipients, array_agg(notification_id) as ids
from told;

-- name: move_fanout
update fanouts set after = $4 where stream_id = $1 and event_id = $2 and part = $3;

-- name: end_fanout
delete from fanouts where stream_id = $1 and event_id = $2 and part = $3;

-- name: enter_untold
insert into untold (stream_id, comment_id, version, event_id) values ($1, $2, $3, $4) on conflict do nothing;

-- name: fanouts_left
-- Threads with parts that have waited for some seconds, at most a thousand. They are found by steps along the index,
-- whatever waits in each.
with recursive threads as (
    (select stream_id, 1 as number from fanouts order by stream_id limit 1)
    union all
    select (
        select f.stream_id from fanouts f where f.stream_id > t.stream_id order by f.stream_id limit 1
    ), t.number + 1
    from threads t where t.stream_id is not null and t.number < 1000
)
select t.stream_id from threads t
where t.stream_id is not null and exists (
    select from fanouts f
    where f.stream_id = t.stream_id and f.entered_at < now() - interval '2 seconds'
);

-- name: fanouts_waiting
-- How many parts wait, counted up to $1, and for how many seconds the oldest has.
select (select count(*) from (select from fanouts limit $1) as f) as parts,
    coalesce((
        select extract(epoch from greatest(interval '0', now() - entered_at)) from fanouts order by entered_at limit 1
    ), 0)::float as seconds;

-- name: comment_state
select state from comments where comment_id = $1 and stream_id = $2;
