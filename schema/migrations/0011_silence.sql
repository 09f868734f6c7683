-- silence: up to which version of a thread nobody was told of anything, since it was copied from another log
-- depends: 0001_log

-- migrate: apply

alter table notifier_checkpoints add column silent bigint not null default 0;

-- migrate: rollback
