-- server keys: bearer keys of a site's own servers
-- depends: 0001_log

-- migrate: apply

create table server_keys (
    key_id uuid primary key,
    site text not null references sites,
    -- what its comments are signed with; null: its id
    name text,
    roles text[] not null check (roles <@ array['moderator', 'admin', 'operator']),
    -- SHA-256 of the whole key, which holds 32 random bytes: there is nothing to guess, so nothing to slow down
    hash bytea not null unique check (octet_length(hash) = 32),
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);

create index server_keys_living on server_keys (site) where revoked_at is null;

-- migrate: rollback
