-- replays: what is being rebuilt from the log, and how far that is
-- depends: 0007_snapshots

-- migrate: apply

create table replays (
    replay_id bigint generated always as identity primary key,
    -- which threads: one, those of a site, or all; of these those with an event since then; of these those that
    -- differ from the log
    site text,
    stream_id uuid,
    since timestamptz,
    differing boolean not null,
    -- events a second, over all processes; null without a bound
    max_rate bigint check (max_rate > 0),
    -- whether the workers do it
    workers boolean not null,
    state text not null default 'running' check (state in ('running', 'paused', 'cancelled', 'done')),
    -- what there was to do when it began
    threads bigint not null,
    events bigint not null,
    -- until when the events that were begun take their share of max_rate
    paid_until timestamptz not null default clock_timestamp(),
    began_at timestamptz not null default clock_timestamp(),
    -- since when it runs without a pause, and how many events were done by then: its rate
    running_since timestamptz not null default clock_timestamp(),
    events_by_then bigint not null default 0,
    ended_at timestamptz
);

create index replays_running on replays (replay_id) where state = 'running';

-- A span of stream ids, which are spread evenly: those behind `done_through`, up to `last`. Whoever holds the
-- lease moves `done_through` on, with the counts of what lies before it, in one statement.
create table replay_ranges (
    replay_id bigint not null references replays on delete cascade,
    number integer not null,
    done_through uuid not null,
    -- null: what no stream has, as rows that no event made
    last uuid,
    threads bigint not null default 0,
    -- of these those that were rebuilt, those that differed and those that could not be
    rebuilt bigint not null default 0,
    failed bigint not null default 0,
    events bigint not null default 0,
    -- rows of the decision state that were written
    repaired bigint not null default 0,
    holder uuid,
    leased_until timestamptz,
    done_at timestamptz,
    primary key (replay_id, number)
) with (fillfactor = 50);

-- The threads that could not be rebuilt, and why.
create table replay_failures (
    replay_id bigint not null references replays on delete cascade,
    stream_id uuid not null,
    reason text not null,
    primary key (replay_id, stream_id)
);

-- migrate: rollback
