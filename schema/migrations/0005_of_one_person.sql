-- what one person wrote, reported and voted for: indexes, made while all goes on
-- depends: 0004_erasure
-- transaction: false

-- migrate: apply

-- One that was not made to its end is left behind, and useless.
drop index concurrently if exists comments_by_key;
drop index concurrently if exists reports_by_reporter;
drop index concurrently if exists votes_by_voter;

-- A key is one author's of one site, and a comment's id is in the order of time. It leaves out what has no key
-- so that only who asks by key may use it: Postgres 18 can skip through an index by all its keys, and a plan for
-- finding comments by their ids, made while the table was empty, did.
create index concurrently comments_by_key on comments (key_id, comment_id) where key_id is not null;
create index concurrently reports_by_reporter on reports (reporter_id, comment_id);
create index concurrently votes_by_voter on votes (voter_id, comment_id);

-- migrate: rollback
