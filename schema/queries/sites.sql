-- name: insert_site
insert into sites (site, stream_id) values ($1, $2) on conflict do nothing returning site;

-- name: site
-- A site with everything that its requests are checked against: its secrets, newest first, and living keys.
select s.site, s.stream_id, coalesce(t.version, 0) as version, t.settings,
    array(
        select row(secret_id, algorithm, wrapped)
        from site_secrets where site = s.site order by created_at desc, secret_id
    ) as secrets,
    array(
        select row(key_id, name, roles, hash)
        from server_keys where site = s.site and revoked_at is null order by created_at, key_id
    ) as keys
from sites s left join streams t on t.stream_id = s.stream_id where s.site = $1;

-- name: sites
select s.site, s.stream_id, s.created_at, coalesce(t.version, 0) as version
from sites s left join streams t on t.stream_id = s.stream_id order by s.site;

-- name: lock_site
-- Whoever adds or retires a site's secrets and keys does it alone.
select site from sites where site = $1 for update;

-- name: insert_site_secret
-- Which of $4 and $5 is stored: see insert_author_key.
insert into site_secrets (site, secret_id, algorithm, wrapped) values ($1, $2, $3, case
    when (select value from database_facts where name = 'master_key') = $6 then $4::bytea else $5::bytea
end);

-- name: site_secrets
select secret_id, algorithm, wrapped, created_at
from site_secrets where site = $1 order by created_at desc, secret_id;

-- name: delete_site_secret
delete from site_secrets where site = $1 and secret_id = $2;

-- name: any_site_secret
select secret_id, wrapped from site_secrets order by created_at limit 1;

-- name: insert_server_key
insert into server_keys (key_id, site, name, roles, hash) values ($1, $2, $3, $4, $5);

-- name: server_keys
select key_id, name, roles, created_at, revoked_at
from server_keys where site = $1 order by created_at, key_id;

-- name: count_living_keys
select count(*) from server_keys where site = $1 and revoked_at is null;

-- name: revoke_server_key
-- When it was revoked first: a second time changes nothing.
update server_keys set revoked_at = coalesce(revoked_at, now())
where site = $1 and key_id = $2 returning key_id, name, roles, created_at, revoked_at;

-- name: living_server_key
-- The living key with the hash $1, and its site: for what belongs to no site.
select site, key_id, name, roles from server_keys where hash = $1 and revoked_at is null;
