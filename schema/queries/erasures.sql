-- name: erase_author
-- Destroys a key and enters the erasure; see the function, in 0004_erasure.sql.
select outcome, erasure from erase_author($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: erasure
select erasure_id, site, author_id, key_id, requested_by, requested_at, filed_at, done_at, comments
from erasures where erasure_id = $1;

-- name: erasures_of
-- The erasures of author $2 on site $1, newest first, at most $3.
select erasure_id, site, author_id, key_id, requested_by, requested_at, filed_at, done_at, comments
from erasures where site = $1 and author_id = $2 order by number desc limit $3;

-- name: newest_erasures
-- The erasures of site $1 or of all, newest first, at most $2.
select erasure_id, site, author_id, key_id, requested_by, requested_at, filed_at, done_at, comments
from erasures where $1::text is null or site = $1 order by number desc limit $2;

-- name: erasures_since
-- Which keys were destroyed from erasure number $1 on, that one included, at most $2.
select number, key_id from erasures where number >= $1 order by number limit $2;

-- name: last_erasure
select number, key_id from erasures order by number desc limit 1;

-- name: erased_since
-- How many people of site $1 were erased after erasure number $2.
select count(*) from erasures where site = $1 and number > $2;

-- name: claim_erasure
-- One that nobody works on, for the next $1 seconds.
update erasures set leased_until = clock_timestamp() + make_interval(secs => $1)
where erasure_id = (
    select erasure_id from erasures
    where done_at is null and (leased_until is null or leased_until < clock_timestamp())
    order by number limit 1 for update skip locked
)
returning erasure_id, site, author_id, key_id, requested_by, requested_at, filed_at, done_at, comments;

-- name: renew_erasure
update erasures set leased_until = clock_timestamp() + make_interval(secs => $2) where erasure_id = $1;

-- name: file_erasure
update erasures set filed_at = coalesce(filed_at, clock_timestamp()) where erasure_id = $1;

-- name: finish_erasure
update erasures set done_at = clock_timestamp(), leased_until = null, comments = (
    select count(*) from comments c where c.key_id = erasures.key_id
) where erasure_id = $1 and done_at is null;

-- name: unfinished_erasures
-- How many are not done, and since when the oldest is.
select count(*) as erasures, min(requested_at) as since from erasures where done_at is null;

-- name: comments_to_erase
-- What was sealed under key $1 and is not erased yet, behind comment $2, at most $3.
select c.comment_id, c.stream_id, s.key
from comments c join streams s on s.stream_id = c.stream_id
where c.key_id = $1 and c.comment_id > $2 and c.state <> 'erased' order by c.comment_id limit $3;

-- name: erased_comments
-- All that was sealed under key $1, behind comment $2, at most $3, with the version at which it was erased.
select comment_id, stream_id, version from comments
where key_id = $1 and comment_id > $2 order by comment_id limit $3;

-- name: streams_under_key
-- Those of the streams $2 in which something was sealed under key $1.
select distinct stream_id from comments where key_id = $1 and stream_id = any($2::uuid[]);

-- name: living_keys_among
-- Those of the keys $1 that live, though they were destroyed once.
select key_id from author_keys where key_id = any($1::uuid[]) and wrapped is not null;

-- name: empty_inbox
-- The notifications of recipient $2 on site $1, some at a time.
delete from notifications where recipient_id = $2 and site = $1 and notification_id in (
    select notification_id from notifications where recipient_id = $2 and site = $1
    order by notification_id limit 1000
);

-- name: vacuum_author_keys
-- A key that was overwritten lies in its page until that is cleaned.
vacuum (skip_locked, truncate false) author_keys;

-- name: own_comments
-- What was sealed under key $1, behind comment $2, at most $3.
select c.comment_id, c.stream_id, s.key, s.title, s.url, c.state, c.created_at, c.posted, c.text_version
from comments c join streams s on s.stream_id = c.stream_id
where c.key_id = $1 and c.comment_id > $2 order by c.comment_id limit $3;

-- name: own_reports
-- What reporter $2 reported on site $1, behind comment $4 of stream $3, at most $5.
select r.comment_id, r.stream_id, s.key, s.title, s.url, r.version
from reports r join streams s on s.stream_id = r.stream_id
where r.reporter_id = $2 and r.version > 0 and s.site = $1 and (r.stream_id, r.comment_id) > ($3, $4)
order by r.stream_id, r.comment_id limit $5;

-- name: own_votes
-- The votes of voter $2 on site $1, withdrawn ones left out, behind comment $4 of stream $3, at most $5.
select v.comment_id, v.stream_id, s.key, s.title, s.url, v.value
from votes v join streams s on s.stream_id = v.stream_id
where v.voter_id = $2 and s.site = $1 and v.value <> 0 and (v.stream_id, v.comment_id) > ($3, $4)
order by v.stream_id, v.comment_id limit $5;
