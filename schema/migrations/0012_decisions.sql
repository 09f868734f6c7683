-- decisions: which comments a moderator has approved, so that reports never hide them again
-- depends: 0003_votes

-- migrate: apply

alter table comments add column if not exists approved boolean not null default false;

-- migrate: rollback
