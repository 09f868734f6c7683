-- name: server_facts
-- What `doctor` looks at in one server.
select
    current_setting('server_version') as version,
    current_setting('server_version_num')::int as number,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('full_page_writes') as full_page_writes,
    pg_is_in_recovery() as standby,
    clock_timestamp() as now;

-- name: idempotency_partitions
-- The weeks that have a partition, and how many rows fell into the one for all others.
select
    array(
        select to_date(right(c.relname, 8), 'YYYYMMDD')
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'idempotency'::regclass and c.relname ~ '^idempotency_[0-9]{8}$'
        order by 1
    ) as weeks,
    (select count(*) from (select from idempotency_later limit 1000) as some_rows) as later;

-- name: newest_author_keys
-- The $1 youngest living author keys, wrapped.
select key_id, wrapped from author_keys where destroyed_at is null order by created_at desc limit $1;

-- name: newest_site_secrets
select secret_id, wrapped from site_secrets order by created_at desc limit $1;

-- name: event_counts
-- How many events there are of each type, of one site ($1) or of all. Reads the whole log.
select e.type, count(*) as events, sum(octet_length(e.data) + coalesce(octet_length(e.sealed), 0))::bigint as bytes
from events e
where $1::text is null or e.stream_id in (select stream_id from streams where site = $1)
group by e.type order by events desc, e.type;

-- name: stream_counts
-- How many threads have events, how many comments of them are visible, and the time of the last event.
select count(*) filter (where key is not null) as threads, coalesce(sum(visible), 0)::bigint as visible,
    max(recorded_at) as last
from streams where $1::text is null or site = $1;

-- name: log_bytes
-- What the events take on disk, indexes included.
select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint from pg_inherits
where inhparent = 'events'::regclass;

-- name: names_of
-- What the threads $1 are called by their clients.
select stream_id, site, key from streams where stream_id = any($1::uuid[]);
