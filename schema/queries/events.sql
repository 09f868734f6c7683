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
