-- name: insert_author_key
-- Stores $4, wrapped by the master key of fingerprint $6, where the database is under that one, else $5.
insert into author_keys (key_id, site, author_id, wrapped) values ($1, $2, $3, case
    when (select value from database_facts where name = 'master_key') = $6 then $4::bytea else $5::bytea
end)
on conflict (site, author_id) where destroyed_at is null do nothing;

-- name: author_key
select key_id, wrapped from author_keys where site = $1 and author_id = $2 and destroyed_at is null;

-- name: author_keys
select key_id, wrapped from author_keys where key_id = any($1::uuid[]) and wrapped is not null;

-- name: master_key
-- The fingerprint of the master key that everything is to be wrapped by; none where none was ever replaced.
select value from database_facts where name = 'master_key';

-- name: derived_secrets
select purpose, wrapped from derived_secrets;

-- name: keep_derived_secret
insert into derived_secrets (purpose, wrapped) values ($1, $2) on conflict do nothing;

-- name: lock_wrapped
-- Waits for whoever is storing a key, and keeps the others until the end of the transaction.
lock table author_keys, site_secrets, webhook_endpoints in share mode;

-- name: put_under_master_key
insert into database_facts (name, value) values ('master_key', $1)
on conflict (name) do update set value = excluded.value where database_facts.value <> excluded.value;

-- name: count_wrapped
select (select count(*) from author_keys where wrapped is not null) + (select count(*) from site_secrets)
    + (select count(wrapped) + count(wrapped_before) from webhook_endpoints);

-- name: wrapped_author_keys
-- The living author keys behind $1, at most $2.
select key_id, wrapped from author_keys where key_id > $1 and wrapped is not null order by key_id limit $2;

-- name: rewrap_author_keys
-- One that was destroyed since it was read stays so.
update author_keys k set wrapped = n.after
from unnest($1::uuid[], $2::bytea[], $3::bytea[]) as n (key_id, before, after)
where k.key_id = any($1::uuid[]) and k.key_id = n.key_id and k.wrapped = n.before;

-- name: wrapped_site_secrets
select secret_id, wrapped from site_secrets;

-- name: rewrap_site_secrets
update site_secrets s set wrapped = n.after
from unnest($1::uuid[], $2::bytea[], $3::bytea[]) as n (secret_id, before, after)
where s.secret_id = n.secret_id and s.wrapped = n.before;

-- name: wrapped_endpoint_secrets
select endpoint_id, wrapped from webhook_endpoints
union all
select endpoint_id, wrapped_before from webhook_endpoints where wrapped_before is not null;

-- name: rewrap_endpoint_secrets
-- Those that were replaced since they were read stay as they are.
with n as (
    select * from unnest($1::uuid[], $2::bytea[], $3::bytea[]) as n (endpoint_id, before, after)
)
update webhook_endpoints e set
    wrapped = coalesce(
        (select n.after from n where n.endpoint_id = e.endpoint_id and n.before = e.wrapped), e.wrapped
    ),
    wrapped_before = coalesce(
        (select n.after from n where n.endpoint_id = e.endpoint_id and n.before = e.wrapped_before), e.wrapped_before
    )
where e.endpoint_id = any($1::uuid[]);

-- name: rewrap_derived_secret
update derived_secrets set wrapped = $3 where purpose = $1 and wrapped = $2;

-- name: sessions_without_key
-- Sessions of processes that do not know the master key of fingerprint $1: they say in their name what they know.
select count(*) from pg_stat_activity
where datname = current_database() and application_name ~ '^threadlog( |$)' and strpos(application_name, $1) = 0;

-- name: vacuum_wrapped
-- What was overwritten lies in its page until that is cleaned.
vacuum (skip_locked, truncate false) author_keys, site_secrets, webhook_endpoints, derived_secrets;

-- name: site_author_keys
-- The keys of site $1 after key $2, destroyed ones too, at most $3.
select key_id, author_id, wrapped, destroyed_at from author_keys
where site = $1 and key_id > $2 order by key_id limit $3;

-- name: thread_author_keys
-- As site_author_keys, of those keys that something in stream $4 is sealed under.
select key_id, author_id, wrapped, destroyed_at from author_keys
where site = $1 and key_id > $2 and key_id in (select key_id from events where stream_id = $4)
order by key_id limit $3;

-- name: adopt_author_keys
-- Keys from another log, wrapped as in insert_author_key. One that is here already is left alone, and so is who
-- has another one.
insert into author_keys (key_id, site, author_id, wrapped, destroyed_at)
select key_id, $1, author_id, case
    when (select value from database_facts where name = 'master_key') = $7 then now_wrapped else before_wrapped
end, destroyed_at
from unnest($2::uuid[], $3::text[], $4::bytea[], $5::bytea[], $6::timestamptz[]) as k (
    key_id, author_id, now_wrapped, before_wrapped, destroyed_at
)
on conflict do nothing returning key_id;

-- name: standing_of_keys
select key_id, site, author_id, wrapped is not null as alive from author_keys where key_id = any($1::uuid[]);
