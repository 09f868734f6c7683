-- name: lease_lanes
-- Takes the sweeper's lock (class $1) of every lane that is not in $2 and that nobody else sweeps. A lock taken
-- twice has to be given back twice, so the order of the two conditions is not left to the planner.
select lane from lanes
where case when lane = any($2::smallint[]) then false else pg_try_advisory_lock($1, lane) end;

-- name: lease_maintenance
select pg_try_advisory_lock($1, 0);

-- name: give_back_lease
-- Gives back the lock of class $1 on $2.
select pg_advisory_unlock($1, $2);

-- name: sweeper_checkpoint
select position from sweeper_checkpoints where lane = $1;

-- name: move_sweeper_checkpoint
-- Forward only: a sweeper that lost its lock without noticing takes nothing back.
insert into sweeper_checkpoints as c (lane, position, swept_at) values ($1, $2, now())
on conflict (lane) do update set position = excluded.position, swept_at = excluded.swept_at
where c.position <= excluded.position;

-- name: sweep_window
-- The streams with events in lane $1 at the $3 positions after $2, as far as these are older than $4 seconds.
-- A stream's time never goes back. Where the database's clock did, what is over 5 seconds ahead of it is old:
-- else one stream would hold up its lane until the clock is there again.
with near as (
    select stream_id, version, position, recorded_at from events
    where lane = $1 and position > $2 and position <= $2 + $3
), settled as (
    select * from near where position < coalesce(
        (
            select min(position) from near
            where recorded_at > clock_timestamp() - make_interval(secs => $4)
                and recorded_at <= clock_timestamp() + interval '5 seconds'
        ),
        $2 + $3 + 1
    )
)
select e.stream_id, max(e.version) as version, min(e.position) as first, max(e.position) as last,
    min(e.recorded_at) as recorded_at, bool_and(s.key is not null) as thread
from settled e join streams s on s.stream_id = e.stream_id
group by e.stream_id;

-- name: lane_head
select head from lanes where lane = $1;

-- name: followed
-- How far the notifier is in the streams $1, and which projections are parked there.
select asked.stream_id, coalesce(n.version, 0) as notified,
    array(select d.projection from dead_letters d where d.stream_id = asked.stream_id) as parked
from unnest($1::uuid[]) as asked (stream_id)
left join notifier_checkpoints n on n.stream_id = asked.stream_id;

-- name: bury
-- One dead letter for each projection and stream: the event that it stands before.
insert into dead_letters (projection, stream_id, version, event_id, reason, build)
values ($1, $2, $3, $4, $5, $6)
on conflict (projection, stream_id) do update set
    version = excluded.version, event_id = excluded.event_id, reason = excluded.reason, build = excluded.build,
    created_at = case
        when dead_letters.event_id = excluded.event_id then dead_letters.created_at else excluded.created_at
    end;

-- name: dead_among
select stream_id, version, build from dead_letters where projection = $1 and stream_id = any($2::uuid[]);

-- name: resurrect
delete from dead_letters where projection = $1 and stream_id = $2 and version <= $3;

-- name: dead_of_other_builds
-- Dead letters that another release than $1 left: this one may know what to do. At most $4 after ($2, $3).
select projection, stream_id, version, event_id, reason, build, created_at
from dead_letters where build <> $1 and (projection, stream_id) > ($2, $3)
order by projection, stream_id limit $4;

-- name: dead_letters
select projection, stream_id, version, event_id, reason, build, created_at
from dead_letters where (projection, stream_id) > ($1, $2) order by projection, stream_id limit $3;

-- name: letters_of
-- The dead letters of the projections $1 and, unless $2 is null, of this site, with the names of their threads,
-- the type of the event and the version that the thread has reached. At most $5 after ($3, $4).
select d.projection, d.stream_id, d.version, d.event_id, d.reason, d.build, d.created_at,
    s.site, s.key, e.type, coalesce(s.version, d.version) as head
from dead_letters d
left join lateral (
    select site, key, version from streams where stream_id = d.stream_id offset 0
) s on true
left join lateral (
    select type from events where stream_id = d.stream_id and version = d.version offset 0
) e on true
where d.projection = any($1::text[]) and ($2::text is null or s.site = $2) and (d.projection, d.stream_id) > ($3, $4)
order by d.projection, d.stream_id limit $5;

-- name: discard
-- The dead letter of projection $1 and stream $2 goes, if it still stands before event $3, and stays recorded
-- as passed over for the reason $4.
with gone as (
    delete from dead_letters where projection = $1 and stream_id = $2 and event_id = $3
    returning projection, stream_id, version, event_id, reason, build
)
insert into discarded_letters (projection, stream_id, version, event_id, error, build, reason)
select projection, stream_id, version, event_id, reason, build, $4 from gone
on conflict (projection, stream_id, version) do update set
    event_id = excluded.event_id, error = excluded.error, build = excluded.build, reason = excluded.reason,
    discarded_at = excluded.discarded_at
returning version;

-- name: discarded_letters
-- What was passed over, the last first. At most $3, of the projections $1 and, unless $2 is null, of this site.
select d.projection, d.stream_id, d.version, d.event_id, d.error, d.build, d.reason, d.discarded_at, s.site, s.key
from discarded_letters d
left join lateral (select site, key from streams where stream_id = d.stream_id offset 0) s on true
where d.projection = any($1::text[]) and ($2::text is null or s.site = $2)
order by d.discarded_at desc limit $3;

-- name: dead_counts
select projection, count(*) as letters from dead_letters group by projection;

-- name: ensure_partitions
select ensure_partitions(now());
