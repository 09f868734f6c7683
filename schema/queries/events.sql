-- name: events_after
-- The events of stream $1 after version $2, oldest first, at most $3.
select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
    recorded_at, data, sealed, key_id, hash, lane, position
from events where stream_id = $1 and version > $2 order by version limit $3;

-- name: votes_lately
-- The votes among the last $3 events of stream $1 up to version $2 that are at most $4 seconds older than it.
select recorded_at, data from events
where stream_id = $1 and version > $2::bigint - $3::bigint and version <= $2 and type = 'CommentVoted'
    and recorded_at >= (
        select recorded_at from events where stream_id = $1 and version = $2
    ) - make_interval(secs => $4::float8)
order by version;

-- name: head
-- Version and hash of a stream's last event, from the decision state.
select version, hash from streams where stream_id = $1;

-- name: heads
select stream_id, version from streams where stream_id = any($1::uuid[]);

-- name: events_by_position
-- The events of lane $1 after position $2, in order, at most $3.
select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
    recorded_at, data, sealed, key_id, hash, lane, position
from events where lane = $1 and position > $2 order by position limit $3;

-- name: site_events_by_position
-- The events of site $4 at the positions of lane $1 after $2 up to $3, in order, at most $5; each row also says
-- up to where was looked: no further than the lane's head, which is of the same moment as the events.
with stretch as (select least($3::bigint, head) as reached from lanes where lane = $1)
select s.reached, e.stream_id, e.version, e.event_id, e.type, e.schema_version, e.actor_id, e.correlation_id,
    e.causation_id, e.recorded_at, e.data, e.sealed, e.key_id, e.hash, e.lane, e.position
from stretch s left join lateral (
    select found.* from events found
    where found.lane = $1 and found.position > $2 and found.position <= s.reached
        and (select site from streams where stream_id = found.stream_id) = $4
    order by found.position limit $5
) as e on true
order by e.position;

-- name: hashes_at
-- The hash of the event at version $2[n] of stream $1[n].
select found.stream_id, found.version, found.hash
from unnest($1::uuid[], $2::bigint[]) as asked (stream_id, version)
cross join lateral (
    select stream_id, version, hash from events
    where stream_id = asked.stream_id and version = asked.version
    offset 0
) as found;

-- name: first_of
-- The first position among the events at version $2[n] of stream $1[n], and the time of the oldest.
select min(found.position) as position, min(found.recorded_at) as recorded_at
from unnest($1::uuid[], $2::bigint[]) as asked (stream_id, version)
cross join lateral (
    select position, recorded_at from events
    where stream_id = asked.stream_id and version = asked.version
    offset 0
) as found;

-- name: stream_ends
select stream_id, version, hash from streams where stream_id = any($1::uuid[]);

-- name: site_size
-- How many events site $1 has: the versions of its streams.
select coalesce(sum(version), 0)::bigint from streams where site = $1;

-- name: threads
-- The threads after stream $1 in the order of their ids, of one site or all, at most $3.
select stream_id, site, key, version from streams
where stream_id > $1 and key is not null and ($2::text is null or site = $2) order by stream_id limit $3;

-- name: lanes
select lane, head from lanes order by lane;

-- name: comment_key
select author_id, key_id from comments where comment_id = $1 and stream_id = $2;

-- name: events_at
-- The events of stream $1 at the versions $2.
select stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
    recorded_at, data, sealed, key_id, hash, lane, position
from events where stream_id = $1 and version = any($2::bigint[]);

-- name: text_versions
-- Where a comment's texts after revision $3 lie: its posting, found by its id, and the edits after it.
select e.version from comments c
join events e on e.stream_id = c.stream_id and e.version >= c.posted and e.version <= c.text_version
where c.comment_id = $2 and c.stream_id = $1 and (
    (e.version = c.posted and $3::bigint < 1)
    or (
        e.type = 'CommentEdited'
        and convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id' = c.comment_id::text
        and (convert_from(e.data, 'UTF8')::jsonb ->> 'revision')::bigint > $3
    )
)
order by e.version limit $4;
