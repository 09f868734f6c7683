-- discarded letters: the events that an operator had a projection pass over, and why
-- depends: 0001_log

-- migrate: apply

create table discarded_letters (
    projection text not null,
    stream_id uuid not null,
    version bigint not null,
    event_id uuid not null,
    -- what the projection met there, and the release that met it
    error text not null,
    build text not null,
    -- why the operator had it passed over
    reason text not null,
    discarded_at timestamptz not null default now(),
    primary key (projection, stream_id, version)
);

-- migrate: rollback
