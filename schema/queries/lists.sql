-- Lists that are read from the decision state: counts, a site's newest comments, and what one person did.

-- name: visible_counts
-- How many comments of each of the threads $2 of site $1 are visible; one without events is left out.
select key, visible from streams where site = $1 and key = any($2::text[]);

-- name: newest_of_site
-- The newest visible comments of site $1 before comment $3 of the time $2, at most $4.
select comment_id, stream_id, created_at, posted from comments
where site = $1 and state = 'visible' and (created_at, comment_id) < ($2, $3)
order by created_at desc, comment_id desc limit $4;

-- name: newest_of_thread
-- The visible ones among the comments that were posted to thread $1 after version $2 and up to $3, newest
-- first, at most $4.
select c.comment_id, e.stream_id, c.created_at, e.version as posted
from events e cross join lateral (
    select comment_id, created_at from comments
    where comment_id = e.event_id and state = 'visible'
    offset 0
) as c
where e.stream_id = $1 and e.version > $2 and e.version <= $3 and e.type in ('CommentPosted', 'ReplyPosted')
order by e.version desc limit $4;

-- name: newest_of_person
-- What was sealed under key $1, before comment $2, at most $3.
select comment_id, stream_id, created_at, posted from comments
where key_id = $1 and comment_id < $2 order by comment_id desc limit $3;

-- name: own_in_thread
-- What person $2 did in thread $1, all of it of one moment: the newest $4 votes (withdrawn ones left out) and
-- reports, of the comments $3 where these are given, and their comments that wait for approval.
select
    (select row(version, hash, closed, described_by) from streams where stream_id = $1) as thread,
    array(
        select row(comment_id, value) from votes
        where voter_id = $2 and stream_id = $1 and value <> 0
            and ($3::uuid[] is null or comment_id = any($3::uuid[]))
        order by comment_id desc limit $4
    ) as votes,
    array(
        select comment_id from reports
        where reporter_id = $2 and stream_id = $1 and version > 0
            and ($3::uuid[] is null or comment_id = any($3::uuid[]))
        order by comment_id desc limit $4
    ) as reports,
    array(
        select comment_id from comments
        where stream_id = $1 and author_id = $2 and state = 'held'
        order by comment_id desc limit $4
    ) as held,
    (select level from subscriptions where stream_id = $1 and author_id = $2) as subscription;
