-- snapshots: the structure of long threads at some of their versions, so that a page need not fold a whole log
-- depends: 0006_newest

-- migrate: apply

-- Any row may be deleted at any time: with a snapshot go its segments, and what it saved is folded again.
create table snapshots (
    stream_id uuid not null,
    version bigint not null,
    -- of the event at this version: in another log's story the snapshot is of no use
    hash bytea not null,
    format smallint not null,
    head bytea not null,
    written_at timestamptz not null default now(),
    primary key (stream_id, version)
);

create table snapshot_segments (
    stream_id uuid not null,
    version bigint not null,
    kind text not null,
    number integer not null,
    data bytea not null,
    primary key (stream_id, version, kind, number),
    foreign key (stream_id, version) references snapshots on delete cascade
);

-- They are compressed already.
alter table snapshot_segments alter column data set storage external;

-- migrate: rollback
