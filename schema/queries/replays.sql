-- Replays: which there are, their ranges, and what of the log lies in one.

-- name: begin_replay
-- A replay with its ranges: the ids behind $8[n] up to $9[n]. The ones that ended a month ago go.
with gone as (
    delete from replays where ended_at < clock_timestamp() - interval '30 days'
), begun as (
    insert into replays (site, stream_id, since, differing, max_rate, workers, threads, events)
    values ($1, $2, $3, $4, $5, $6, $7, $10) returning replay_id
), cut as (
    insert into replay_ranges (replay_id, number, done_through, last)
    select replay_id, ordinal, done_through, last
    from begun, unnest($8::uuid[], $9::uuid[]) with ordinality as r (done_through, last, ordinal)
)
select replay_id from begun;

-- name: replay_size
-- How many threads there are of site $1 or of all with an event since $2, and how many events they have.
select count(*) as threads, coalesce(sum(version), 0)::bigint as events
from streams
where key is not null and ($1::text is null or site = $1) and ($2::timestamptz is null or recorded_at >= $2);

-- name: replays
-- Replay $1, or the $2 newest where that is null.
select r.replay_id, r.site, r.stream_id, r.since, r.differing, r.max_rate, r.workers, r.state,
    r.threads as of_threads, r.events as of_events, d.threads, d.rebuilt, d.failed, d.events, d.repaired, d.ranges,
    d.done, d.leased, r.began_at, r.ended_at,
    case when r.state = 'running' then greatest(d.events - r.events_by_then, 0)
        / greatest(extract(epoch from clock_timestamp() - r.running_since)::float8, 0.001)
    end as rate
from replays r cross join lateral (
    select sum(threads)::bigint as threads, sum(rebuilt)::bigint as rebuilt, sum(failed)::bigint as failed,
        sum(events)::bigint as events, sum(repaired)::bigint as repaired, count(*) as ranges,
        count(done_at) as done,
        count(*) filter (where done_at is null and leased_until > clock_timestamp()) as leased
    from replay_ranges g where g.replay_id = r.replay_id
) as d
where $1::bigint is null or r.replay_id = $1
order by r.replay_id desc limit $2;

-- name: replay_failures
-- The threads that replay $1 could not rebuild, at most $2.
select f.stream_id, s.site, s.key, f.reason
from replay_failures f left join streams s on s.stream_id = f.stream_id
where f.replay_id = $1 order by f.stream_id limit $2;

-- name: move_replay
-- Replay $1 to state $2, if it is in one of $3. What runs again has its rate counted from now.
update replays as r set state = $2,
    running_since = case when $2 = 'running' then clock_timestamp() else running_since end,
    events_by_then = case when $2 = 'running' then (
        select sum(g.events) from replay_ranges g where g.replay_id = r.replay_id
    ) else events_by_then end,
    ended_at = case when $2 in ('cancelled', 'done') then clock_timestamp() end
where replay_id = $1 and state = any($3::text[])
returning replay_id;

-- name: finish_replay
-- Replay $1 is done when all its ranges are. A statement of its own: it sees what others have committed.
update replays as r set state = 'done', ended_at = clock_timestamp()
where replay_id = $1 and state = 'running'
    and not exists (select from replay_ranges g where g.replay_id = r.replay_id and g.done_at is null);

-- name: replays_to_do
-- The running replays of the workers that have ranges which nobody works on, and how many; and those whose
-- ranges are all done, as where somebody was killed right before saying so.
select r.replay_id, count(*) filter (
    where g.done_at is null and (g.leased_until is null or g.leased_until < clock_timestamp())
) as free
from replays r join replay_ranges g on g.replay_id = r.replay_id
where r.state = 'running' and r.workers
group by r.replay_id
having count(g.done_at) = count(*)
    or bool_or(g.done_at is null and (g.leased_until is null or g.leased_until < clock_timestamp()))
order by r.replay_id limit 100;

-- name: claim_range
-- The first range of replay $1 that nobody works on, for $2 and for $3 seconds. What belongs to no thread comes
-- before them, so that nobody waits for it in the end.
update replay_ranges set holder = $2, leased_until = clock_timestamp() + make_interval(secs => $3)
where replay_id = $1 and number = (
    select g.number from replay_ranges g join replays r on r.replay_id = g.replay_id
    where g.replay_id = $1 and r.state = 'running' and g.done_at is null
        and (g.leased_until is null or g.leased_until < clock_timestamp())
    order by g.last is not null, g.number limit 1 for update of g skip locked
)
returning number, done_through, last;

-- name: renew_range
-- Keeps range $2 of replay $1 for its holder $3, for $4 seconds more; the replay's state, null where another
-- holds the range.
update replay_ranges as g set leased_until = clock_timestamp() + make_interval(secs => $4)
from replays r
where r.replay_id = g.replay_id and g.replay_id = $1 and g.number = $2 and g.holder = $3 and g.done_at is null
returning r.state;

-- name: give_back_range
update replay_ranges set holder = null, leased_until = null
where replay_id = $1 and number = $2 and holder = $3 and done_at is null;

-- name: take_over_ranges
update replay_ranges set holder = null, leased_until = null where replay_id = $1 and done_at is null;

-- name: checkpoint_range
-- As renew_range, and with it everything up to stream $5 is done: $6 threads, of which $7 were rebuilt and $8
-- failed ($12, for the reasons $13), $9 events, $10 rows. With $11 the range is.
with moved as (
    update replay_ranges as g set done_through = $5, threads = g.threads + $6, rebuilt = g.rebuilt + $7,
        failed = g.failed + $8, events = g.events + $9, repaired = g.repaired + $10,
        leased_until = clock_timestamp() + make_interval(secs => $4),
        done_at = case when $11 then clock_timestamp() end
    from replays r
    where r.replay_id = g.replay_id and g.replay_id = $1 and g.number = $2 and g.holder = $3 and g.done_at is null
    returning r.state
), failures as (
    insert into replay_failures (replay_id, stream_id, reason)
    select $1, f.stream_id, f.reason from moved, unnest($12::uuid[], $13::text[]) as f (stream_id, reason)
    on conflict (replay_id, stream_id) do update set reason = excluded.reason
)
select state from moved;

-- name: pay_for_events
-- How many seconds to wait before $2 more events of replay $1, so that all its processes keep to its rate.
with before as (
    select replay_id, max_rate, greatest(paid_until, clock_timestamp()) as free_at
    from replays where replay_id = $1 for update
)
update replays as r set paid_until = b.free_at + make_interval(secs => $2::float8 / b.max_rate)
from before b where r.replay_id = b.replay_id
returning greatest(extract(epoch from b.free_at - clock_timestamp()), 0)::float8 as wait;

-- name: logged_streams
-- The streams of the log behind $1 up to $2, in order, at most $5: found by their first events, since the row
-- of a stream may be lost. Of site $3 or all, with an event since $4; one without a row is always among them,
-- with what its first event says.
select e.stream_id, s.site, s.key, s.version, case when s.stream_id is null then e.data end as opened
from events e left join streams s on s.stream_id = e.stream_id
where e.version = 1 and e.stream_id > $1 and e.stream_id <= $2
    and (s.stream_id is null or (
        ($3::text is null or s.site = $3) and ($4::timestamptz is null or s.recorded_at >= $4)
    ))
order by e.stream_id limit $5;

-- name: in_log
-- Those of the streams $1 that have events.
select asked.stream_id from unnest($1::uuid[]) as asked (stream_id)
where exists (select from events e where e.stream_id = asked.stream_id and e.version = 1);

-- name: events_of
-- All events of the streams $1, each stream's in order.
select e.stream_id, e.version, e.event_id, e.type, e.schema_version, e.actor_id, e.correlation_id,
    e.causation_id, e.recorded_at, e.data, e.sealed, e.key_id, e.hash, e.lane, e.position
from unnest($1::uuid[]) as asked (stream_id) cross join lateral (
    select * from events as found where found.stream_id = asked.stream_id order by found.version offset 0
) as e;

-- name: streams_kept
select stream_id, lane, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
    settings
from streams where stream_id = any($1::uuid[]);

-- name: comments_kept
select comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision, created_at,
    edited_at, edited_by, version, text_version, report_weight, path, up, down, site, approved
from comments where comment_id = any($1::uuid[]);

-- name: reports_kept
select r.comment_id, r.reporter_id, r.stream_id, r.version
from unnest($1::uuid[], $2::text[]) as asked (comment_id, reporter_id)
cross join lateral (
    select comment_id, reporter_id, stream_id, version from reports
    where comment_id = asked.comment_id and reporter_id = asked.reporter_id offset 0
) as r;

-- name: votes_kept
select v.comment_id, v.voter_id, v.stream_id, v.value, v.version
from unnest($1::uuid[], $2::text[]) as asked (comment_id, voter_id)
cross join lateral (
    select comment_id, voter_id, stream_id, value, version from votes
    where comment_id = asked.comment_id and voter_id = asked.voter_id offset 0
) as v;

-- name: remove_snapshots_of
delete from snapshots where stream_id = any($1::uuid[]);

-- name: remove_stray_streams
-- The rows of those of the streams $1 that have no events.
delete from streams s where s.stream_id = any($1::uuid[]) and not exists (
    select from events e where e.stream_id = s.stream_id
);

-- name: remove_stray_checkpoints
-- How far the notifier is in those of the streams $1 that have no events.
delete from notifier_checkpoints n where n.stream_id = any($1::uuid[]) and not exists (
    select from events e where e.stream_id = n.stream_id
);

-- name: remove_stray_letters
-- Dead letters before another event than the log has there; the projection tries again.
delete from dead_letters l where not exists (
    select from events e where e.stream_id = l.stream_id and e.version = l.version and e.event_id = l.event_id
);

-- name: remove_stray_snapshots
-- Snapshots of another story than the log's.
delete from snapshots s where not exists (
    select from events e where e.stream_id = s.stream_id and e.version = s.version and e.hash = s.hash
);

-- name: repair_lane
-- The head of lane $1, under its lock.
insert into lanes (lane, head)
select $1, coalesce((select e.position from events e where e.lane = $1 order by e.position desc limit 1), 0)
on conflict (lane) do update set head = excluded.head where lanes.head <> excluded.head;

-- name: repair_sweeper
-- A sweeper that is ahead of lane $1, under its lock, begins anew.
update sweeper_checkpoints set position = 0
where lane = $1 and (position < 0 or position > (select head from lanes where lane = $1));

-- name: repair_notified
-- How far the notifier is in the threads $1, where that cannot be: ahead of the log, or behind what the sweeper
-- saw it pass, as where the row was lost. Nobody is told of anything by it.
with asked as (
    select s.stream_id, s.version as log_end, coalesce(n.version, 0) as notified, c.position as swept
    from streams s
    left join notifier_checkpoints n on n.stream_id = s.stream_id
    left join sweeper_checkpoints c on c.lane = s.lane
    where s.stream_id = any($1::uuid[]) and s.key is not null
        and (n.version is null or n.version <> s.version)
        and not exists (
            select from dead_letters d where d.projection = 'notifications' and d.stream_id = s.stream_id
        )
), due as (
    select a.stream_id, a.notified, case when a.notified > a.log_end then a.log_end else coalesce((
        select e.version from events e
        where e.stream_id = a.stream_id and e.version > a.notified and e.position <= a.swept
        order by e.version desc limit 1
    ), a.notified) end as version
    from asked a
)
insert into notifier_checkpoints as c (stream_id, version)
select stream_id, version from due where version <> notified
on conflict (stream_id) do update set version = excluded.version, named = least(c.named, excluded.version)
where c.version < excluded.version
    or c.version > (select s.version from streams s where s.stream_id = c.stream_id);

-- name: reset_names
-- The names of the threads $1, whose checkpoints are locked, are to be folded anew.
with gone as (
    delete from participants where stream_id = any($1::uuid[])
), unnamed as (
    delete from mentioned where stream_id = any($1::uuid[])
)
update notifier_checkpoints set named = 0 where stream_id = any($1::uuid[]) and named <> 0;

-- name: remove_stray_names
-- Names of threads that have no events.
with gone as (
    delete from mentioned m where not exists (select from events e where e.stream_id = m.stream_id)
)
delete from participants p where not exists (select from events e where e.stream_id = p.stream_id);

-- name: wal_end
-- Up to where the primary has written.
select pg_current_wal_lsn()::text;

-- name: has_replayed
-- Whether a standby has come to $1; a server that is none has.
select coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true);
