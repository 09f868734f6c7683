-- name: enter_mail
-- What the recipients $3 of site $1 are to get by mail: of the notifications $4, which tell of the events $2. Who
-- wants it at once gets each; another the next digest, which chooses what it tells of when it is sent. That is a minute
-- after it is due: what is being told until then is committed, and in it.
with told as (
    select t.event_id, t.recipient_id, t.notification_id, coalesce(p.quiet ->> 'zone', 'UTC') as zone,
        coalesce(p.mail, case when c.vouched or t.recipient_id like 'guest:%' then 'hourly' else 'off' end) as mode
    from unnest($2::uuid[], $3::text[], $4::uuid[]) as t (event_id, recipient_id, notification_id)
    cross join lateral (
        select bool_or(source = 'token') as vouched,
            bool_or(refused_at is null and (source = 'token' or confirmed_at is not null)) as usable
        from contacts
        where site = $1 and author_id = t.recipient_id
        offset 0
    ) c
    left join preferences p on p.site = $1 and p.author_id = t.recipient_id
    where c.usable
), due as (
    select *, mail_due(mode, zone, statement_timestamp()) as due from told where mode <> 'off'
)
insert into deliveries (delivery_id, site, channel, kind, recipient_id, event_id, about, next_at)
select distinct on (1)
    case when mode = 'now' then md5(format('mail %s', notification_id))
        else md5(format('digest %s %s %s', $1::text, extract(epoch from due), recipient_id)) end::uuid,
    $1, 'mail', case when mode = 'now' then 'notification' else 'digest' end, recipient_id,
    case when mode = 'now' then event_id end,
    case when mode = 'now' then jsonb_build_object('notification_id', notification_id) else '{}' end,
    case when mode = 'now' then due else due + interval '1 minute' end
from due
on conflict (delivery_id) do nothing;

-- name: enter_webhooks
-- Tell every endpoint of site $1[n] of event $2[n], about $3[n]: {"comment_id", "recipients": [[id, reason], ...]}.
-- $4[n] tells the parts of one event's recipients from each other.
insert into deliveries (delivery_id, site, channel, kind, endpoint_id, event_id, about, next_at)
select md5(format('webhook %s %s %s', w.endpoint_id, n.event_id, n.salt))::uuid, n.site, 'webhook', 'notification',
    w.endpoint_id, n.event_id, n.about, now()
from unnest($1::text[], $2::uuid[], $3::jsonb[], $4::text[]) as n (site, event_id, about, salt)
join webhook_endpoints w on w.site = n.site and w.disabled_at is null
on conflict (delivery_id) do nothing;

-- name: claim_first
-- What is due of channel $1, at most $2, for $3 seconds, but for digests: those can wait for it.
update deliveries d set next_at = clock_timestamp() + make_interval(secs => $3), attempts = attempts + 1
from (
    select delivery_id from deliveries
    where channel = $1 and state = 'pending' and next_at <= now() and kind <> 'digest'
    order by next_at limit $2 for update skip locked
) due
where d.delivery_id = due.delivery_id
returning d.delivery_id, d.site, d.channel, d.kind, d.recipient_id, d.endpoint_id, d.event_id, d.about, d.attempts,
    d.created_at;

-- name: claim_digests
-- The oldest due digests of channel $1, at most $2, for $3 seconds.
update deliveries d set next_at = clock_timestamp() + make_interval(secs => $3), attempts = attempts + 1
from (
    select delivery_id from deliveries
    where channel = $1 and state = 'pending' and next_at <= now() and kind = 'digest'
    order by next_at limit $2 for update skip locked
) due
where d.delivery_id = due.delivery_id
returning d.delivery_id, d.site, d.channel, d.kind, d.recipient_id, d.endpoint_id, d.event_id, d.about, d.attempts,
    d.created_at;

-- name: claim_webhooks
-- As claim_first, at most $1 for $2 seconds, with room for every endpoint: $5 of each, less the $4 that are
-- under way to the endpoints $3; one where it failed of late; none while its circuit is open. Endpoints are found by
-- steps along the index, so what a deaf one has waiting costs nothing.
with recursive waiting as (
    select '00000000-0000-0000-0000-000000000000'::uuid as endpoint_id
    union all
    select (
        select d.endpoint_id from deliveries d
        where d.channel = 'webhook' and d.state = 'pending' and d.endpoint_id > w.endpoint_id
        order by d.endpoint_id limit 1
    )
    from waiting w where w.endpoint_id is not null
), open as (
    select e.endpoint_id, case when e.failures = 0 then $5 else 1 end - coalesce(b.number, 0) as room
    from waiting w
    join webhook_endpoints e on e.endpoint_id = w.endpoint_id
    left join unnest($3::uuid[], $4::int[]) as b (endpoint_id, number) on b.endpoint_id = e.endpoint_id
    where e.disabled_at is null and (e.open_until is null or e.open_until <= now())
), found as materialized (
    select d.delivery_id, d.next_at, open.endpoint_id from open cross join lateral (
        select delivery_id, next_at from deliveries
        where channel = 'webhook' and state = 'pending' and endpoint_id = open.endpoint_id and next_at <= now()
        order by next_at limit greatest(0, open.room) for update skip locked
    ) d
), due as (
    select delivery_id from found
    order by row_number() over (partition by endpoint_id order by next_at), next_at limit $1
)
update deliveries d set next_at = clock_timestamp() + make_interval(secs => $2), attempts = attempts + 1
from due
where d.delivery_id = due.delivery_id
returning d.delivery_id, d.site, d.channel, d.kind, d.recipient_id, d.endpoint_id, d.event_id, d.about, d.attempts,
    d.created_at;

-- name: end_delivery
-- It has come to $2, for the reason $3. Only what was sent is so whoever says it; else attempt $4 must be the last.
update deliveries set state = $2, reason = $3, ended_at = now()
where delivery_id = $1 and ($2 = 'sent' and state <> 'sent' or ended_at is null and attempts = $4);

-- name: put_off_delivery
-- It goes again $2 seconds from now, for the reason $3, unless attempt $4 was not the last.
update deliveries set next_at = now() + make_interval(secs => $2), reason = $3
where delivery_id = $1 and ended_at is null and attempts = $4;

-- name: leave_delivery
-- It goes at $2, and attempt $3 was none.
update deliveries set next_at = $2, attempts = attempts - 1
where delivery_id = $1 and ended_at is null and attempts = $3;

-- name: listed_deliveries
-- Those of site $1 in state $2 of channel $3, each perhaps null, newest first behind ($4, $5), at most $6.
select delivery_id, site, channel, kind, recipient_id, endpoint_id, event_id, about, attempts, created_at, state,
    next_at, reason, ended_at
from deliveries
where ($1::text is null or site = $1) and ($2::text is null or state = $2) and ($3::text is null or channel = $3)
    and ($4::timestamptz is null or (created_at, delivery_id) < ($4, $5::uuid))
order by created_at desc, delivery_id desc limit $6;

-- name: delivery
select delivery_id, site, channel, kind, recipient_id, endpoint_id, event_id, about, attempts, created_at, state,
    next_at, reason, ended_at
from deliveries where delivery_id = $1;

-- name: retry_delivery
update deliveries set state = 'pending', attempts = 0, next_at = now(), reason = null, ended_at = null
where delivery_id = $1 and state <> 'sent' returning delivery_id;

-- name: retry_dead_deliveries
-- The dead ones of site $1, of the channels $2, oldest first, at most $3.
update deliveries set state = 'pending', attempts = 0, next_at = now(), reason = null, ended_at = null
where delivery_id = any(array(
    select delivery_id from deliveries
    where channel = any($2::text[]) and site = $1 and state = 'dead'
    order by ended_at limit $3 for update skip locked
))
returning delivery_id;

-- name: deliveries_standing
-- Of each channel what is due and what is dead, each counted up to $1, and for how many seconds the oldest that
-- could go has been due: what waits for an endpoint whose circuit is open, or that is switched off, could not.
with recursive waiting as (
    select '00000000-0000-0000-0000-000000000000'::uuid as endpoint_id
    union all
    select (
        select d.endpoint_id from deliveries d
        where d.channel = 'webhook' and d.state = 'pending' and d.endpoint_id > w.endpoint_id
        order by d.endpoint_id limit 1
    )
    from waiting w where w.endpoint_id is not null
), since as (
    select 'webhook' as channel, greatest(d.next_at, e.open_until) as at
    from waiting w
    join webhook_endpoints e on e.endpoint_id = w.endpoint_id and e.disabled_at is null
    cross join lateral (
        select next_at from deliveries
        where channel = 'webhook' and state = 'pending' and endpoint_id = w.endpoint_id
        order by next_at limit 1
    ) d
    union all
    (select channel, next_at from deliveries where channel = 'mail' and state = 'pending' order by next_at limit 1)
)
select c.channel,
    (
        select count(*) from (
            select from deliveries where channel = c.channel and state = 'pending' and next_at <= now() limit $1
        ) d
    ) as due,
    (
        select count(*) from (
            select from deliveries where channel = c.channel and state = 'dead' limit $1
        ) d
    ) as dead,
    coalesce((
        select extract(epoch from greatest(interval '0', now() - min(s.at))) from since s where s.channel = c.channel
    ), 0)::float as late
from (values ('mail'), ('webhook')) as c (channel) order by 1;

-- name: bury_deliveries
-- What waits for endpoints that are switched off or gone, at most $1 of each: nobody will send it.
with recursive waiting as (
    select '00000000-0000-0000-0000-000000000000'::uuid as endpoint_id
    union all
    select (
        select d.endpoint_id from deliveries d
        where d.channel = 'webhook' and d.state = 'pending' and d.endpoint_id > w.endpoint_id
        order by d.endpoint_id limit 1
    )
    from waiting w where w.endpoint_id is not null
), found as materialized (
    select d.delivery_id, e.endpoint_id is null as gone from waiting w
    left join webhook_endpoints e on e.endpoint_id = w.endpoint_id
    cross join lateral (
        select delivery_id from deliveries
        where channel = 'webhook' and state = 'pending' and endpoint_id = w.endpoint_id
        order by next_at limit $1 for update skip locked
    ) d
    where e.endpoint_id is null or e.disabled_at is not null
)
update deliveries d set state = case when gone then 'dropped' else 'dead' end, ended_at = now(),
    reason = case when gone then 'the endpoint was removed' else 'the endpoint is switched off' end
from found where d.delivery_id = found.delivery_id;

-- name: remove_old_deliveries
-- What ended more than $1 days ago, at most $2.
delete from deliveries where delivery_id = any(array(
    select delivery_id from deliveries
    where ended_at < now() - make_interval(days => $1) order by ended_at limit $2
));
