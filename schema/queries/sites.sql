-- name: insert_site
insert into sites (site, stream_id) values ($1, $2) on conflict do nothing returning site;

-- name: insert_site_secret
insert into site_secrets (site, secret_id, algorithm, wrapped) values ($1, $2, $3, $4);

-- name: site
select s.site, s.stream_id, coalesce(t.version, 0) as version, t.settings
from sites s left join streams t on t.stream_id = s.stream_id where s.site = $1;

-- name: site_secrets
select secret_id, algorithm, wrapped from site_secrets where site = $1 order by created_at desc;

-- name: sites
select s.site, s.stream_id, s.created_at, coalesce(t.version, 0) as version
from sites s left join streams t on t.stream_id = s.stream_id order by s.site;

-- name: any_site_secret
select secret_id, wrapped from site_secrets order by created_at limit 1;
