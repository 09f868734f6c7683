-- the log, its lanes, and the decision state that is kept in the append transaction
-- depends:

-- migrate: apply

create table database_facts (
    name text primary key,
    value text not null
);

create table lanes (
    lane smallint primary key,
    -- the position of the lane's last event: dense, written under the lane's advisory lock
    head bigint not null default 0
) with (fillfactor = 50);

create table events (
    position bigint not null,
    lane smallint not null,
    stream_id uuid not null,
    version bigint not null check (version > 0),
    event_id uuid not null,
    type text not null,
    schema_version smallint not null,
    actor_id text,
    correlation_id text,
    causation_id uuid,
    recorded_at timestamptz not null,
    data bytea not null,
    sealed bytea,
    key_id uuid,
    hash bytea not null check (octet_length(hash) = 32),
    primary key (stream_id, version)
) partition by hash (stream_id);

create table events_p0 partition of events for values with (modulus 8, remainder 0);
create table events_p1 partition of events for values with (modulus 8, remainder 1);
create table events_p2 partition of events for values with (modulus 8, remainder 2);
create table events_p3 partition of events for values with (modulus 8, remainder 3);
create table events_p4 partition of events for values with (modulus 8, remainder 4);
create table events_p5 partition of events for values with (modulus 8, remainder 5);
create table events_p6 partition of events for values with (modulus 8, remainder 6);
create table events_p7 partition of events for values with (modulus 8, remainder 7);

create index events_by_position on events (lane, position);

-- History is immutable. A row trigger on the parent is made on every partition; TRUNCATE is a statement
-- trigger, which Postgres does not pass on, so each partition has its own.
create function refuse_rewriting() returns trigger language plpgsql as $$
begin
    raise exception 'events are immutable: % refused', tg_op using errcode = 'restrict_violation';
end
$$;

create trigger events_are_immutable before update or delete on events
    for each row execute function refuse_rewriting();

create trigger events_are_kept before truncate on events
    for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p0 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p1 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p2 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p3 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p4 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p5 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p6 for each statement execute function refuse_rewriting();
create trigger events_are_kept before truncate on events_p7 for each statement execute function refuse_rewriting();

-- Decision state: projections as small as the decisions need, rebuilt per stream by a replay.

create table streams (
    stream_id uuid primary key,
    lane smallint not null,
    site text not null,
    -- the client's own key of a thread; null for a site's stream
    key text,
    version bigint not null,
    hash bytea not null,
    recorded_at timestamptz not null,
    closed boolean not null default false,
    visible bigint not null default 0,
    described_by text,
    title text,
    url text,
    settings jsonb
) with (fillfactor = 70);

create index streams_by_site on streams (site, key);

create table comments (
    comment_id uuid primary key,
    stream_id uuid not null,
    posted bigint not null,
    parent bigint not null,
    depth smallint not null,
    author_id text,
    key_id uuid,
    text_mac text not null,
    state text not null,
    revision integer not null,
    created_at timestamptz not null,
    edited_at timestamptz,
    edited_by text,
    version bigint not null,
    text_version bigint not null,
    report_weight double precision not null default 0,
    path bytea not null
) with (fillfactor = 85);

create table reports (
    comment_id uuid not null,
    reporter_id text not null,
    stream_id uuid not null,
    version bigint not null,
    primary key (comment_id, reporter_id)
);

-- One row per Idempotency-Key: HMACs, never the key or the text. Weekly partitions, dropped when their last
-- row is 30 days old.
create table idempotency (
    key_mac bytea not null,
    request_mac bytea not null,
    stream_id uuid not null,
    event_id uuid not null,
    version bigint not null,
    status smallint not null,
    recorded_at timestamptz not null
) partition by range (recorded_at);

create table idempotency_later partition of idempotency default;

create index idempotency_by_key on idempotency (key_mac);

-- Makes the partitions of this week and the next two, and drops what is out of date. Rows that came while
-- their week had none lie in the default partition and are moved; most of them before it is locked. Nobody
-- waits behind this for longer than the lock_timeout and a scan of what the default partition still holds.
create function ensure_partitions(present timestamptz) returns void language plpgsql
    set timezone = 'UTC' set lock_timeout = '300ms' as $$
declare
    move constant text := 'with moved as ('
        'delete from idempotency_later where recorded_at >= %L and recorded_at < %L returning *'
        ') insert into %I select * from moved';
    missing timestamptz[];
    first timestamptz;
    name text;
begin
    lock table only idempotency in share update exclusive mode;  -- one of these at a time; reads and writes go on
    missing := array(
        select week
        from generate_series(
            date_trunc('week', present), date_trunc('week', present) + interval '14 days', interval '7 days'
        ) as week
        where to_regclass('idempotency_' || to_char(week, 'YYYYMMDD')) is null
    );
    delete from idempotency_later where recorded_at < present - interval '30 days';
    foreach first in array missing loop
        name := 'idempotency_' || to_char(first, 'YYYYMMDD');
        execute format('create table %I (like idempotency including all)', name);
        execute format(move, first, first + interval '7 days', name);
    end loop;
    if cardinality(missing) > 0 then
        lock table idempotency_later in access exclusive mode;
    end if;
    foreach first in array missing loop
        name := 'idempotency_' || to_char(first, 'YYYYMMDD');
        execute format(move, first, first + interval '7 days', name);
        execute format(
            'alter table idempotency attach partition %I for values from (%L) to (%L)',
            name, first, first + interval '7 days'
        );
    end loop;
    for name in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'idempotency'::regclass
            and c.relname ~ '^idempotency_[0-9]{8}$'
            and to_date(right(c.relname, 8), 'YYYYMMDD') + 7 + 30 < present::date
    loop
        execute format('drop table %I', name);
    end loop;
end
$$;

-- Keys, sites and their secrets: the truth about them is here, not in the log.

create table author_keys (
    key_id uuid primary key,
    site text not null,
    author_id text not null,
    -- AES-256-GCM under the master key; null once destroyed
    wrapped bytea,
    created_at timestamptz not null default now(),
    destroyed_at timestamptz,
    check ((wrapped is null) = (destroyed_at is not null))
);

create unique index author_keys_by_author on author_keys (site, author_id) where destroyed_at is null;

create table sites (
    site text primary key,
    stream_id uuid not null unique,
    created_at timestamptz not null default now()
);

create table site_secrets (
    site text not null references sites,
    secret_id uuid not null,
    algorithm text not null,
    wrapped bytea not null,
    created_at timestamptz not null default now(),
    primary key (site, secret_id)
);

-- Followers of the log.

create table notifier_checkpoints (
    stream_id uuid primary key,
    version bigint not null
) with (fillfactor = 70);

create table sweeper_checkpoints (
    lane smallint primary key,
    position bigint not null,
    swept_at timestamptz not null default now()
) with (fillfactor = 50);

create table notifications (
    site text not null,
    recipient_id text not null,
    notification_id uuid not null,
    event_id uuid not null,
    stream_id uuid not null,
    comment_id uuid not null,
    reason text not null,
    actor_id text,
    created_at timestamptz not null,
    read_at timestamptz,
    primary key (recipient_id, site, notification_id),
    unique (recipient_id, site, event_id)
) partition by hash (recipient_id);

create table notifications_p0 partition of notifications for values with (modulus 4, remainder 0);
create table notifications_p1 partition of notifications for values with (modulus 4, remainder 1);
create table notifications_p2 partition of notifications for values with (modulus 4, remainder 2);
create table notifications_p3 partition of notifications for values with (modulus 4, remainder 3);

create index notifications_unread on notifications (recipient_id, site, notification_id) where read_at is null;

create table dead_letters (
    projection text not null,
    stream_id uuid not null,
    version bigint not null,
    event_id uuid not null,
    reason text not null,
    build text not null,
    created_at timestamptz not null default now(),
    primary key (projection, stream_id)
);

-- migrate: rollback
