-- The decision state of one stream, as verify compares it and a replay repairs it.

-- name: stream_end
select version from events where stream_id = $1 order by version desc limit 1;

-- name: stream_ends_in_log
-- The last version of each of the streams $1; null where there are no events.
select asked.stream_id, (
    select e.version from events e where e.stream_id = asked.stream_id order by e.version desc limit 1
) as version
from unnest($1::uuid[]) as asked (stream_id);

-- name: streams_state
select s.* from unnest($1::uuid[]) as asked (stream_id)
cross join lateral (
    select stream_id, lane, site, key, version, hash, recorded_at, closed, visible, described_by, title, url,
        settings
    from streams where stream_id = asked.stream_id offset 0
) as s;

-- name: comments_state
-- Found by the threads' own posting events: a comment's id is its posting event's.
select e.stream_id as of_stream, c.* from events e cross join lateral (
    select comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision, created_at,
        edited_at, edited_by, version, text_version, report_weight, path, up, down, site, approved
    from comments where comment_id = e.event_id offset 0
) as c
where e.stream_id = any($1::uuid[]) and e.type in ('CommentPosted', 'ReplyPosted');

-- name: reports_state
select e.stream_id as of_stream, r.comment_id, r.reporter_id, r.stream_id, r.version
from events e cross join lateral (
    select comment_id, reporter_id, stream_id, version from reports
    where comment_id = (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid
        and reporter_id = e.actor_id
    offset 0
) as r
where e.stream_id = any($1::uuid[]) and e.type = 'CommentReported';

-- name: votes_state
select e.stream_id as of_stream, v.comment_id, v.voter_id, v.stream_id, v.value, v.version
from events e cross join lateral (
    select comment_id, voter_id, stream_id, value, version from votes
    where comment_id = (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid
        and voter_id = e.actor_id
    offset 0
) as v
where e.stream_id = any($1::uuid[]) and e.type = 'CommentVoted';

-- name: repair_stream
insert into streams (
    stream_id, lane, site, key, version, hash, recorded_at, closed, visible, described_by, title, url, settings
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb)
on conflict (stream_id) do update set
    lane = excluded.lane, site = excluded.site, key = excluded.key, version = excluded.version,
    hash = excluded.hash, recorded_at = excluded.recorded_at, closed = excluded.closed,
    visible = excluded.visible, described_by = excluded.described_by, title = excluded.title,
    url = excluded.url, settings = excluded.settings;

-- name: repair_comment
insert into comments (
    comment_id, stream_id, posted, parent, depth, author_id, key_id, text_mac, state, revision, created_at,
    edited_at, edited_by, version, text_version, report_weight, path, up, down, site, approved
) values (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21
)
on conflict (comment_id) do update set
    stream_id = excluded.stream_id, posted = excluded.posted, parent = excluded.parent,
    depth = excluded.depth, author_id = excluded.author_id, key_id = excluded.key_id,
    text_mac = excluded.text_mac, state = excluded.state, revision = excluded.revision,
    created_at = excluded.created_at, edited_at = excluded.edited_at, edited_by = excluded.edited_by,
    version = excluded.version, text_version = excluded.text_version,
    report_weight = excluded.report_weight, path = excluded.path, up = excluded.up, down = excluded.down,
    site = excluded.site, approved = excluded.approved;

-- name: repair_report
insert into reports (comment_id, reporter_id, stream_id, version) values ($1, $2, $3, $4)
on conflict (comment_id, reporter_id) do update set
    stream_id = excluded.stream_id, version = excluded.version;

-- name: repair_vote
insert into votes (comment_id, voter_id, stream_id, value, version) values ($1, $2, $3, $4, $5)
on conflict (comment_id, voter_id) do update set
    stream_id = excluded.stream_id, value = excluded.value, version = excluded.version;

-- name: stray_comments
-- Of the $2 comments after $1, those that no event of their stream posted, and the last of them.
-- `offset 0`: the event is looked up. Else a plan may hash the whole log for every slice.
with slice as (
    select comment_id, stream_id, posted from comments where comment_id > $1 order by comment_id limit $2
), found as (
    select comment_id, not exists (
        select from events e
        where e.stream_id = slice.stream_id and e.version = slice.posted and e.event_id = slice.comment_id
        offset 0
    ) as stray from slice
)
select comment_id, stray from found
where stray or comment_id = (select comment_id from slice order by comment_id desc limit 1)
order by comment_id;

-- name: stray_reports
-- Of the $3 reports after $2's of comment $1, those that no event of their stream made, and the last of them.
with slice as (
    select comment_id, reporter_id, stream_id, version from reports where (comment_id, reporter_id) > ($1, $2)
    order by comment_id, reporter_id limit $3
), found as (
    select comment_id, reporter_id, not exists (
        select from events e
        where e.stream_id = slice.stream_id and e.version = slice.version and e.type = 'CommentReported'
            and e.actor_id = slice.reporter_id
            and (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid = slice.comment_id
        offset 0
    ) as stray from slice
)
select comment_id, reporter_id, stray from found
where stray or (comment_id, reporter_id) = (
    select comment_id, reporter_id from slice order by comment_id desc, reporter_id desc limit 1
) order by comment_id, reporter_id;

-- name: stray_votes
-- Of the $3 votes after $2's on comment $1, those that no event of their stream cast, and the last of them.
with slice as (
    select comment_id, voter_id, stream_id, version from votes where (comment_id, voter_id) > ($1, $2)
    order by comment_id, voter_id limit $3
), found as (
    select comment_id, voter_id, not exists (
        select from events e
        where e.stream_id = slice.stream_id and e.version = slice.version and e.type = 'CommentVoted'
            and e.actor_id = slice.voter_id
            and (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid = slice.comment_id
        offset 0
    ) as stray from slice
)
select comment_id, voter_id, stray from found
where stray or (comment_id, voter_id) = (
    select comment_id, voter_id from slice order by comment_id desc, voter_id desc limit 1
) order by comment_id, voter_id;

-- name: remove_stray_comments
-- Of the comments $1, those that are strays still: others may have set them right since they were found.
delete from comments c where comment_id = any($1::uuid[]) and not exists (
    select from events e where e.stream_id = c.stream_id and e.version = c.posted and e.event_id = c.comment_id
);

-- name: remove_stray_reports
delete from reports r where (comment_id, reporter_id) in (select * from unnest($1::uuid[], $2::text[]))
    and not exists (
        select from events e
        where e.stream_id = r.stream_id and e.version = r.version and e.type = 'CommentReported'
            and e.actor_id = r.reporter_id
            and (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid = r.comment_id
    );

-- name: remove_stray_votes
delete from votes v where (comment_id, voter_id) in (select * from unnest($1::uuid[], $2::text[]))
    and not exists (
        select from events e
        where e.stream_id = v.stream_id and e.version = v.version and e.type = 'CommentVoted'
            and e.actor_id = v.voter_id
            and (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid = v.comment_id
    );
