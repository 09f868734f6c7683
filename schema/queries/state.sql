-- The decision state of one stream, as verify compares it and a replay repairs it.

-- name: stream_end
select version from events where stream_id = $1 order by version desc limit 1;

-- name: stream_state
select site, key, version, hash, recorded_at, closed, visible, described_by, title, url, settings
from streams where stream_id = $1;

-- name: comments_state
-- Found by the thread's own posting events: a comment's id is its posting event's.
select c.comment_id, c.stream_id, c.posted, c.parent, c.depth, c.author_id, c.key_id, c.text_mac, c.state,
    c.revision, c.created_at, c.edited_at, c.edited_by, c.version, c.text_version, c.report_weight, c.path,
    c.up, c.down, c.site
from events e join comments c on c.comment_id = e.event_id
where e.stream_id = $1 and e.type in ('CommentPosted', 'ReplyPosted');

-- name: reports_state
select r.comment_id, r.reporter_id, r.version
from events e join reports r
    on r.comment_id = (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid
    and r.reporter_id = e.actor_id
where e.stream_id = $1 and e.type = 'CommentReported';

-- name: votes_state
select v.comment_id, v.voter_id, v.value, v.version
from events e cross join lateral (
    select comment_id, voter_id, value, version from votes
    where comment_id = (convert_from(e.data, 'UTF8')::jsonb ->> 'comment_id')::uuid
        and voter_id = e.actor_id
    offset 0
) as v
where e.stream_id = $1 and e.type = 'CommentVoted';

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
    edited_at, edited_by, version, text_version, report_weight, path, up, down, site
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
on conflict (comment_id) do update set
    stream_id = excluded.stream_id, posted = excluded.posted, parent = excluded.parent,
    depth = excluded.depth, author_id = excluded.author_id, key_id = excluded.key_id,
    text_mac = excluded.text_mac, state = excluded.state, revision = excluded.revision,
    created_at = excluded.created_at, edited_at = excluded.edited_at, edited_by = excluded.edited_by,
    version = excluded.version, text_version = excluded.text_version,
    report_weight = excluded.report_weight, path = excluded.path, up = excluded.up, down = excluded.down,
    site = excluded.site;

-- name: repair_report
insert into reports (comment_id, reporter_id, stream_id, version) values ($1, $2, $3, $4)
on conflict (comment_id, reporter_id) do update set
    stream_id = excluded.stream_id, version = excluded.version;

-- name: repair_vote
insert into votes (comment_id, voter_id, stream_id, value, version) values ($1, $2, $3, $4, $5)
on conflict (comment_id, voter_id) do update set
    stream_id = excluded.stream_id, value = excluded.value, version = excluded.version;

-- name: stray_comments
-- Comments that no event of their stream posted.
select c.comment_id from comments c where not exists (
    select from events e where e.stream_id = c.stream_id and e.version = c.posted and e.event_id = c.comment_id
) limit $1;

-- name: stray_reports
-- Reports that no event of their stream made.
select r.comment_id, r.reporter_id from reports r where not exists (
    select from events e
    where e.stream_id = r.stream_id and e.version = r.version and e.type = 'CommentReported'
        and e.actor_id = r.reporter_id
) limit $1;

-- name: stray_votes
-- Votes that no event of their stream cast.
select v.comment_id, v.voter_id from votes v where not exists (
    select from events e
    where e.stream_id = v.stream_id and e.version = v.version and e.type = 'CommentVoted'
        and e.actor_id = v.voter_id
) limit $1;

-- name: remove_stray_comments
delete from comments where comment_id = any($1::uuid[]);

-- name: remove_stray_reports
delete from reports where (comment_id, reporter_id) in (select * from unnest($1::uuid[], $2::text[]));

-- name: remove_stray_votes
delete from votes where (comment_id, voter_id) in (select * from unnest($1::uuid[], $2::text[]));
