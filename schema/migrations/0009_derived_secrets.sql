-- derived secrets: what an earlier master key derived and must not change when it is replaced
-- depends: 0001_log

-- migrate: apply

create table derived_secrets (
    -- as in MasterKey.derived
    purpose text primary key,
    -- AES-256-GCM under the master key, bound to the purpose
    wrapped bytea not null
);

-- migrate: rollback
