-- name: steps_after
-- The events of stream $1 after version $2 up to $3, oldest first, at most $4: what a fold of structure needs.
select version, event_id, type, schema_version, recorded_at, data, hash
from events where stream_id = $1 and version > $2 and version <= $3 order by version limit $4;

-- name: ids_at
select version, event_id from events where stream_id = $1 and version = any($2::bigint[]);

-- name: comment_version
-- The version of stream $2 at which comment $1 was posted.
select posted from comments where comment_id = $1 and stream_id = $2;

-- name: comment_states
-- The present states of the comments $1.
select comment_id, state from comments where comment_id = any($1::uuid[]);

-- name: version_at
-- The last version of stream $1 that was recorded at $2 or before, 0 where none was. A stream's time never goes
-- back, so this halves what is left of it, one event at a time.
with recursive search (low, high) as (
    select 0::bigint, version from streams where stream_id = $1
    union all
    select case when middle.recorded_at <= $2 then middle.version else search.low end,
        case when middle.recorded_at <= $2 then search.high else middle.version - 1 end
    from search cross join lateral (
        select version, recorded_at from events
        where stream_id = $1 and version = (search.low + search.high + 1) / 2 offset 0
    ) as middle
    where search.low < search.high
)
select low from search where low = high;

-- name: snapshot_at
-- The last snapshot of stream $1 in format $2, at version $3 or before.
select version, hash, head from snapshots
where stream_id = $1 and version <= $3 and format = $2 order by version desc limit 1;

-- name: snapshot_versions
select version from snapshots where stream_id = $1 and format = $2 order by version;

-- name: segments_at
-- The segments of snapshot ($1, $2) whose kinds and numbers are $3 and $4.
select wanted.kind, wanted.number, found.data
from unnest($3::text[], $4::integer[]) as wanted (kind, number)
cross join lateral (
    select data from snapshot_segments as s
    where s.stream_id = $1 and s.version = $2 and s.kind = wanted.kind and s.number = wanted.number
    offset 0
) as found;

-- name: segments_of
-- All segments of snapshot ($1, $2), of the kind $3, after the number $4, at most $5.
select number, data from snapshot_segments
where stream_id = $1 and version = $2 and kind = $3 and number > $4 order by number limit $5;

-- name: insert_snapshot
-- Nothing where there is one at this version: whoever wrote it has folded the same events.
insert into snapshots (stream_id, version, hash, format, head) values ($1, $2, $3, $4, $5)
on conflict (stream_id, version) do nothing returning version;

-- name: insert_segments
insert into snapshot_segments (stream_id, version, kind, number, data)
select $1, $2, kind, number, data from unnest($3::text[], $4::integer[], $5::bytea[]) as s (kind, number, data);

-- name: remove_snapshots
delete from snapshots where stream_id = $1 and version = any($2::bigint[]);

-- name: remove_older_snapshots
-- Those of stream $1 that a release before this one wrote, in a format before $2.
delete from snapshots where stream_id = $1 and format < $2;

-- name: lease_snapshots
-- One process writes a thread's snapshots at a time: class $1, and four bytes of the stream's id.
select pg_try_advisory_lock($1, $2);

-- name: long_threads
-- Threads of $2 events or more among the $3 streams after $1, in the order of their ids, with the last
-- snapshot's version in format $4 (0: none); the last of those streams comes with them, whatever it is.
with slice as (
    select stream_id, key, version from streams where stream_id > $1 order by stream_id limit $3
)
select slice.stream_id, slice.key is not null and slice.version >= $2 as long, slice.version,
    coalesce(
        (select max(s.version) from snapshots s where s.stream_id = slice.stream_id and s.format = $4), 0
    ) as snapshot
from slice
where slice.key is not null and slice.version >= $2
    or slice.stream_id = (select stream_id from slice order by stream_id desc limit 1)
order by slice.stream_id;
