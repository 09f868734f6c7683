-- name: insert_endpoint
-- Which of $4 and $5 is stored: see insert_author_key.
insert into webhook_endpoints (endpoint_id, site, url, wrapped, owner) values ($1, $2, $3, case
    when (select value from database_facts where name = 'master_key') = $6 then $4::bytea else $5::bytea
end, $7);

-- name: endpoints
select endpoint_id, site, url, owner, created_at, failing_since, failures, open_until, disabled_at, disabled_reason
from webhook_endpoints where site = $1 order by created_at, endpoint_id;

-- name: endpoint
select endpoint_id, site, url, owner, created_at, failing_since, failures, open_until, disabled_at, disabled_reason
from webhook_endpoints where endpoint_id = $1;

-- name: count_endpoints
select count(*) from webhook_endpoints where site = $1;

-- name: remove_endpoint
delete from webhook_endpoints where site = $1 and endpoint_id = $2
returning endpoint_id, site, url, owner, created_at, failing_since, failures, open_until, disabled_at,
    disabled_reason;

-- name: enable_endpoint
update webhook_endpoints
set disabled_at = null, disabled_reason = null, failing_since = null, failures = 0, open_until = null
where site = $1 and endpoint_id = $2
returning endpoint_id, site, url, owner, created_at, failing_since, failures, open_until, disabled_at,
    disabled_reason;

-- name: rotate_endpoint_secret
-- The old secret signs too for $6 seconds more. Which of $3 and $4 is stored: see insert_author_key.
update webhook_endpoints set wrapped_before = wrapped, before_until = now() + make_interval(secs => $6),
    wrapped = case
        when (select value from database_facts where name = 'master_key') = $5 then $3::bytea else $4::bytea
    end
where site = $1 and endpoint_id = $2
returning endpoint_id;

-- name: forget_old_endpoint_secrets
update webhook_endpoints set wrapped_before = null, before_until = null where before_until < now();

-- name: webhook
-- Where a delivery to endpoint $1 about comment $2 goes, how it is signed, and what it tells of.
select e.url, e.wrapped, case when e.before_until > now() then e.wrapped_before end as wrapped_before, e.failures,
    e.disabled_at is not null as off, c.author_id, c.state, s.key, s.title, s.url as page
from webhook_endpoints e
left join comments c on c.comment_id = $2
left join streams s on s.stream_id = c.stream_id
where e.endpoint_id = $1;

-- name: endpoint_succeeded
update webhook_endpoints set failing_since = null, failures = 0, open_until = null
where endpoint_id = $1 and failing_since is not null;

-- name: endpoint_failed
-- Once more; nothing is sent to it for $2 seconds. Since when it fails, unless it is switched off.
update webhook_endpoints set failures = failures + 1, failing_since = coalesce(failing_since, now()),
    open_until = greatest(open_until, now() + make_interval(secs => $2))
where endpoint_id = $1 and disabled_at is null
returning now() - failing_since as failing, failures;

-- name: switch_endpoint_off
-- For the reason $2, and tell its owner, if it has one and $3 says that mail is sent.
with off as (
    update webhook_endpoints set disabled_at = now(), disabled_reason = $2
    where endpoint_id = $1 and disabled_at is null
    returning endpoint_id, site, owner
), told as (
    insert into deliveries (delivery_id, site, channel, kind, endpoint_id, next_at)
    select md5(format('endpoint-off %s %s', endpoint_id, extract(epoch from now())))::uuid, site, 'mail',
        'endpoint-off', endpoint_id, now()
    from off where owner is not null and $3
)
select endpoint_id from off;

-- name: endpoints_standing
-- How many endpoints take deliveries, have an open circuit, are switched off.
select count(*) filter (where disabled_at is null and (open_until is null or open_until <= now())) as closed,
    count(*) filter (where disabled_at is null and open_until > now()) as open,
    count(*) filter (where disabled_at is not null) as off
from webhook_endpoints;

-- name: endpoints_off
-- Those that are switched off, the latest first, at most $1.
select endpoint_id, site, url, owner, created_at, failing_since, failures, open_until, disabled_at, disabled_reason
from webhook_endpoints where disabled_at is not null order by disabled_at desc limit $1;
