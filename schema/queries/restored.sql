-- name: log_identity
-- Which log this is: the server's, the database's, and the timeline's, which is another one after every recovery
-- to a point in time and every promotion of a standby.
select concat_ws(
    '.',
    (select system_identifier from pg_control_system()),
    (select oid from pg_database where datname = current_database()),
    left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)
);

-- name: told_of
-- What the log says of the streams $1: the hash of the event at version $2, and the last version.
select asked.stream_id, e.hash, s.version
from unnest($1::uuid[], $2::bigint[]) as asked (stream_id, version)
left join lateral (
    select hash from events where stream_id = asked.stream_id and version = asked.version offset 0
) e on true
left join lateral (select version from streams where stream_id = asked.stream_id offset 0) s on true;
