-- name: lock_lane
-- Its own message, before any read: the load's snapshot must be taken after the lock is held.
select pg_advisory_xact_lock($1, $2);

-- name: load
-- What the decisions of one batch need, in one row of arrays: the lane's head and the clock, streams ($2),
-- comments ($3), reports by comment and reporter ($4, $5), idempotency keys ($6) and living author keys ($7).
select
    (select head from lanes where lane = $1) as head,
    clock_timestamp() as now,
    array(
        select row(
            stream_id, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
            settings
        )
        from streams where stream_id = any($2::uuid[])
    ) as streams,
    array(
        select row(
            comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision,
            created_at, edited_at, edited_by, version, text_version, report_weight, path
        )
        from comments where comment_id = any($3::uuid[])
    ) as comments,
    array(
        select row(r.comment_id, r.reporter_id, r.version)
        from unnest($4::uuid[], $5::text[]) as asked (comment_id, reporter_id)
        cross join lateral (
            select found.comment_id, found.reporter_id, found.version from reports as found
            where found.comment_id = asked.comment_id and found.reporter_id = asked.reporter_id
            offset 0
        ) as r
    ) as reports,
    array(
        select row(key_mac, request_mac, event_id, version, status)
        from idempotency
        where key_mac = any($6::bytea[]) and recorded_at > now() - interval '30 days'
        order by recorded_at
    ) as repeats,
    array(
        select key_id from author_keys where key_id = any($7::uuid[]) and destroyed_at is null
    ) as keys;

-- name: append
-- Everything that a batch writes, in one statement. The lane's head moves only from where the load saw it.
with new_events as (
    insert into events (
        position, lane, stream_id, version, event_id, type, schema_version, actor_id, correlation_id,
        causation_id, recorded_at, data, sealed, key_id, hash
    )
    select $3 + ordinal, $1, stream_id, version, event_id, type, schema_version, actor_id, correlation_id,
        causation_id, recorded_at, data, sealed, key_id, hash
    from unnest(
        $4::uuid[], $5::bigint[], $6::uuid[], $7::text[], $8::smallint[], $9::text[], $10::text[],
        $11::uuid[], $12::timestamptz[], $13::bytea[], $14::bytea[], $15::uuid[], $16::bytea[]
    ) with ordinality as e (
        stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
        recorded_at, data, sealed, key_id, hash, ordinal
    )
), moved_streams as (
    insert into streams (
        stream_id, lane, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
        settings
    )
    select stream_id, $1, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
        settings::jsonb
    from unnest(
        $17::uuid[], $18::text[], $19::text[], $20::bigint[], $21::bytea[], $22::timestamptz[],
        $23::boolean[], $24::bigint[], $25::text[], $26::text[], $27::text[], $28::text[]
    ) as s (
        stream_id, site, key, version, hash, recorded_at, closed, visible, described_by, title, url, settings
    )
    on conflict (stream_id) do update set
        version = excluded.version, hash = excluded.hash, recorded_at = excluded.recorded_at,
        closed = excluded.closed, visible = excluded.visible, described_by = excluded.described_by,
        title = excluded.title, url = excluded.url,
        -- A setting that a newer release has added is not known here, and stays.
        settings = streams.settings || excluded.settings
), new_comments as (
    insert into comments (
        comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision,
        created_at, edited_at, edited_by, version, text_version, report_weight, path
    )
    select * from unnest(
        $29::uuid[], $30::uuid[], $31::bigint[], $32::bigint[], $33::smallint[], $34::text[], $35::uuid[],
        $36::text[], $37::text[], $38::integer[], $39::timestamptz[], $40::timestamptz[], $41::text[],
        $42::bigint[], $43::bigint[], $44::double precision[], $45::bytea[]
    )
), changed_comments as (
    update comments as c set
        text_mac = n.text_mac, state = n.state, revision = n.revision, edited_at = n.edited_at,
        edited_by = n.edited_by, version = n.version, text_version = n.text_version,
        report_weight = n.report_weight
    from unnest(
        $46::uuid[], $47::text[], $48::text[], $49::integer[], $50::timestamptz[], $51::text[],
        $52::bigint[], $53::bigint[], $54::double precision[]
    ) as n (
        comment_id, text_mac, state, revision, edited_at, edited_by, version, text_version, report_weight
    )
    where c.comment_id = n.comment_id
), new_reports as (
    insert into reports (comment_id, reporter_id, stream_id, version)
    select * from unnest($55::uuid[], $56::text[], $57::uuid[], $58::bigint[])
), new_repeats as (
    insert into idempotency (key_mac, request_mac, stream_id, event_id, version, status, recorded_at)
    select * from unnest(
        $59::bytea[], $60::bytea[], $61::uuid[], $62::uuid[], $63::bigint[], $64::smallint[],
        $65::timestamptz[]
    )
)
update lanes set head = $2 where lane = $1 and head = $3;

-- name: event_at
-- The id of the event at one place of a stream: settles a batch whose fate is unknown.
select event_id from events where stream_id = $1 and version = $2;
