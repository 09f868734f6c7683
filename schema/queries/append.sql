-- name: take_lane
-- A statement of its own, before any read: the load's snapshot must be taken after the lock is held.
select pg_advisory_lock($1, $2);

-- name: give_lane
select pg_advisory_unlock($1, $2);

-- name: lock_lane
-- For one transaction: a repair's.
select pg_advisory_xact_lock($1, $2);

-- name: load
-- What the decisions of one batch need, in one row of arrays: the lane's head and the clock, streams ($2),
-- comments ($3), parents ($10) of which replies need but little, reports by comment and reporter ($4, $5),
-- idempotency keys ($6), living author keys ($7) and votes by comment and voter ($8, $9).
select
    (select head from lanes where lane = $1) as head,
    clock_timestamp() as now,
    array(
        select row(
            stream_id, version, hash, recorded_at, closed, visible, described_by, title, url, settings
        )
        from streams where stream_id = any($2::uuid[])
    ) as streams,
    array(
        select row(
            comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision,
            created_at, edited_at, edited_by, version, text_version, report_weight, path, up, down, approved
        )
        from comments where comment_id = any($3::uuid[])
    ) as comments,
    array(
        select row(comment_id, stream_id, posted, depth, state, path)
        from comments where comment_id = any($10::uuid[])
    ) as parents,
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
        -- Not `destroyed_at is null`, which is the same: for that the planner may walk through all living keys,
        -- by the index of them alone.
        select key_id from author_keys where key_id = any($7::uuid[]) and wrapped is not null
    ) as keys,
    array(
        select row(v.comment_id, v.voter_id, v.stream_id, v.value, v.version)
        from unnest($8::uuid[], $9::text[]) as asked (comment_id, voter_id)
        cross join lateral (
            select found.comment_id, found.voter_id, found.stream_id, found.value, found.version
            from votes as found
            where found.comment_id = asked.comment_id and found.voter_id = asked.voter_id
            offset 0
        ) as v
    ) as votes;

-- name: append
-- Everything that a batch writes, in one statement. The lane's head moves only from where the load saw it.
-- An array may be shorter than the others of its row, or empty: what is missing is null, and null stands for
-- what is usual. A value costs most of its time on its way here, so the usual ones are not sent.
with new_events as (
    insert into events (
        position, lane, stream_id, version, event_id, type, schema_version, actor_id, correlation_id,
        causation_id, recorded_at, data, sealed, key_id, hash
    )
    select $3 + ordinal, $1, stream_id, version, event_id, type, coalesce(schema_version, 1), actor_id,
        correlation_id, causation_id, coalesce(recorded_at, $4), data, sealed, key_id, hash
    from unnest(
        $5::uuid[], $6::bigint[], $7::uuid[], $8::text[], $9::smallint[], $10::text[], $11::text[],
        $12::uuid[], $13::timestamptz[], $14::bytea[], $15::bytea[], $16::uuid[], $17::bytea[]
    ) with ordinality as e (
        stream_id, version, event_id, type, schema_version, actor_id, correlation_id, causation_id,
        recorded_at, data, sealed, key_id, hash, ordinal
    )
), new_comments as (
    -- Of the events those that post, which have a parent (0: none): most of a comment is in its event.
    insert into comments (
        comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision,
        created_at, edited_at, edited_by, version, text_version, report_weight, path, up, down, site, approved
    )
    select event_id, stream_id, posted, parent, depth,
        case when state = 'erased' then null else actor_id end, key_id, text_mac,
        coalesce(state, 'visible'), coalesce(revision, 1), coalesce(created_at, recorded_at, $4), edited_at,
        edited_by, coalesce(version, posted), coalesce(text_version, posted), coalesce(report_weight, 0),
        coalesce(path, ''), coalesce(up, 0), coalesce(down, 0), coalesce(site, $80), event_id = any($82::uuid[])
    from unnest(
        $7::uuid[], $5::uuid[], $6::bigint[], $10::text[], $16::uuid[], $13::timestamptz[],
        $18::bigint[], $19::smallint[], $20::text[], $21::bytea[],
        $22::text[], $23::integer[], $24::timestamptz[], $25::timestamptz[], $26::text[], $27::bigint[],
        $28::bigint[], $29::double precision[], $30::integer[], $31::integer[], $81::text[]
    ) as c (
        event_id, stream_id, posted, actor_id, key_id, recorded_at, parent, depth, text_mac, path,
        state, revision, created_at, edited_at, edited_by, version, text_version, report_weight, up, down,
        site
    )
    where parent is not null
), moved_streams as (
    update streams as s set
        version = n.version, hash = n.hash, recorded_at = coalesce(n.recorded_at, $4), visible = n.visible,
        closed = coalesce(n.closed, s.closed),
        described_by = case when n.closed is null then s.described_by else n.described_by end,
        title = case when n.closed is null then s.title else n.title end,
        url = case when n.closed is null then s.url else n.url end,
        -- A setting that a newer release has added is not known here, and stays.
        settings = case
            when n.settings is null then s.settings else coalesce(s.settings, '{}') || n.settings::jsonb
        end
    from unnest(
        $32::uuid[], $33::bigint[], $34::bytea[], $35::timestamptz[], $36::bigint[], $37::boolean[],
        $38::text[], $39::text[], $40::text[], $41::text[]
    ) as n (
        stream_id, version, hash, recorded_at, visible, closed, described_by, title, url, settings
    )
    where s.stream_id = n.stream_id
        -- Said again, so that even a plan that begins with this table reads no more of it than these rows: one
        -- that was made when the tables were known to be empty did so, and read all of it for every batch.
        and s.stream_id = any($32::uuid[])
), opened_streams as (
    insert into streams (
        stream_id, lane, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
        settings
    )
    select stream_id, $1, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
        settings::jsonb
    from unnest(
        $42::uuid[], $43::text[], $44::text[], $45::bigint[], $46::bytea[], $47::timestamptz[],
        $48::boolean[], $49::bigint[], $50::text[], $51::text[], $52::text[], $53::text[]
    ) as s (
        stream_id, site, key, version, hash, recorded_at, closed, visible, described_by, title, url, settings
    )
), changed_comments as (
    update comments as c set
        -- Whom an erased comment was by is not kept.
        author_id = case when n.state = 'erased' then null else c.author_id end,
        text_mac = n.text_mac, state = n.state, revision = n.revision, edited_at = n.edited_at,
        edited_by = n.edited_by, version = n.version, text_version = n.text_version,
        report_weight = n.report_weight, up = n.up, down = n.down,
        -- Once approved, for good.
        approved = c.approved or c.comment_id = any($82::uuid[])
    from unnest(
        $54::uuid[], $55::text[], $56::text[], $57::integer[], $58::timestamptz[], $59::text[],
        $60::bigint[], $61::bigint[], $62::double precision[], $63::integer[], $64::integer[]
    ) as n (
        comment_id, text_mac, state, revision, edited_at, edited_by, version, text_version, report_weight,
        up, down
    )
    where c.comment_id = n.comment_id and c.comment_id = any($54::uuid[])
), new_reports as (
    insert into reports (comment_id, reporter_id, stream_id, version)
    select * from unnest($65::uuid[], $66::text[], $67::uuid[], $68::bigint[])
), new_repeats as (
    insert into idempotency (key_mac, request_mac, stream_id, event_id, version, status, recorded_at)
    select *, $4 from unnest(
        $69::bytea[], $70::bytea[], $71::uuid[], $72::uuid[], $73::bigint[], $74::smallint[]
    )
), cast_votes as (
    insert into votes (comment_id, voter_id, stream_id, value, version)
    select * from unnest($75::uuid[], $76::text[], $77::uuid[], $78::smallint[], $79::bigint[])
    on conflict (comment_id, voter_id) do update set value = excluded.value, version = excluded.version
), moved as (
    update lanes set head = $2 where lane = $1 and head = $3 returning lane
)
-- A division by zero, and so nothing is written, where the lane is not where the load saw it.
select 1 / count(*) from moved;

-- name: event_at
-- The id of the event at one place of a stream: settles a batch whose fate is unknown.
select event_id from events where stream_id = $1 and version = $2;

-- name: replicate
-- A commit of its own, which waits for the synchronous standbys as every commit does, and so for all that was
-- committed before it. Nothing is written where there are none.
update lanes set head = head where lane = $1 and current_setting('synchronous_standby_names') <> '';
