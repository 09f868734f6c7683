-- newest: a site's newest comments, what waits for approval, and what one person did in one thread
-- depends: 0005_of_one_person
-- transaction: false

-- migrate: apply

set lock_timeout = '1s';

-- The site that a comment belongs to, by which an index may order all of a site's comments.
alter table comments add column if not exists site text;

-- A process of the release before this one, which may still run, does not name it. When the statement that
-- wrote the comment is done, its stream is there. No function is called for a comment that names its site.
create or replace function name_site_of_comment() returns trigger language plpgsql as $$
begin
    update comments set site = (select site from streams where stream_id = new.stream_id)
    where comment_id = new.comment_id;
    return null;
end
$$;

create or replace trigger comments_name_their_site after insert on comments
    for each row when (new.site is null) execute function name_site_of_comment();

-- The comments that were there before, some at a time: each commit frees what it has locked. What an appender
-- has locked is passed over and met again, so that neither waits for the other.
do $$
declare
    behind uuid := '00000000-0000-0000-0000-000000000000';
    through uuid;
begin
    loop
        select comment_id into through from (
            select comment_id from comments where comment_id > behind order by comment_id limit 2000
        ) as slice order by comment_id desc limit 1;
        exit when through is null;
        loop
            update comments as c set site = s.site from streams as s
            where c.comment_id in (
                select comment_id from comments
                where comment_id > behind and comment_id <= through and site is null
                for update skip locked
            ) and s.stream_id = c.stream_id;
            commit;
            exit when not exists (
                select from comments as c join streams as s on s.stream_id = c.stream_id
                where c.comment_id > behind and c.comment_id <= through and c.site is null
            );
            perform pg_sleep(0.01);
        end loop;
        behind := through;
    end loop;
end
$$;

reset lock_timeout;

-- One that was not made to its end is left behind, and useless.
drop index concurrently if exists comments_newest;
drop index concurrently if exists comments_held;
drop index concurrently if exists votes_by_voter_in_thread;
drop index concurrently if exists reports_by_reporter_in_thread;

-- Both leave out what is of no use to who asks by them; a state changes seldom.
create index concurrently comments_newest on comments (site, created_at, comment_id) where state = 'visible';
create index concurrently comments_held on comments (stream_id, author_id) where state = 'held';

-- In the place of those by person and comment: who asks for all of one person's can as well do it by thread.
-- Partial, so that only who says so may use them: Postgres 18 can skip through an index by a column between two
-- that are known, and the appender's plan for looking up a single vote, made while the table was empty, did.
create index concurrently votes_by_voter_in_thread on votes (voter_id, stream_id, comment_id)
    where value <> 0;
create index concurrently reports_by_reporter_in_thread on reports (reporter_id, stream_id, comment_id)
    where version > 0;
drop index concurrently if exists votes_by_voter;
drop index concurrently if exists reports_by_reporter;

-- migrate: rollback
