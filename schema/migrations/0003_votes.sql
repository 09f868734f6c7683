-- votes: who voted how on which comment, and their counts beside the comment
-- depends: 0001_log

-- migrate: apply

alter table comments
    add column up integer not null default 0,
    add column down integer not null default 0;

-- One row per comment and voter, withdrawn votes (0) included: `version` is that of the last vote's event.
create table votes (
    comment_id uuid not null,
    voter_id text not null,
    stream_id uuid not null,
    value smallint not null,
    version bigint not null,
    primary key (comment_id, voter_id)
) with (fillfactor = 90);

-- migrate: rollback
