-- name: keep_contacts
-- Keep addresses of the authors $2 of the sites $1, sealed under the keys $4: whether each was another before, or
-- none. A key that is destroyed keeps nothing, and has no row in the answer; one that lives does until the commit.
with living as (
    select a.* from unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bytea[], $6::text[]) as a (
        site, author_id, source, key_id, sealed, address_mac
    )
    join author_keys k on k.key_id = a.key_id and k.destroyed_at is null
    order by a.site, a.author_id, a.source for share of k
), kept as (
    insert into contacts as c (site, author_id, source, key_id, sealed, address_mac) select * from living
    on conflict (site, author_id, source) do update set
        key_id = excluded.key_id, sealed = excluded.sealed, address_mac = excluded.address_mac,
        confirmed_at = null, refused_at = null, changed_at = now()
    where c.key_id <> excluded.key_id or c.address_mac <> excluded.address_mac
    returning site, author_id, source
)
select site, author_id, source, exists (
    select from kept where (kept.site, kept.author_id, kept.source) = (l.site, l.author_id, l.source)
) as changed
from living l;

-- name: takes_addresses
-- Of the authors $2 of the sites $1, by their place among them, those whose tokens' addresses are kept: nobody who
-- was erased and has written nothing since, and no guest who has said what they want.
select a.place
from unnest($1::text[], $2::text[]) with ordinality as a (site, author_id, place)
where case
    when a.author_id like 'guest:%' then not exists (
        select from preferences p where p.site = a.site and p.author_id = a.author_id
    )
    else true
end and (
    not exists (select from erasures e where e.site = a.site and e.author_id = a.author_id)
    or exists (
        select from author_keys k
        where k.site = a.site and k.author_id = a.author_id and k.destroyed_at is null
    )
)
order by a.place;

-- name: remove_contact
delete from contacts where site = $1 and author_id = $2 and source = $3;

-- name: contacts
select source, key_id, sealed, address_mac, confirmed_at is not null as confirmed, refused_at is not null as refused
from contacts where site = $1 and author_id = $2 order by source;

-- name: confirm_contact
update contacts set confirmed_at = coalesce(confirmed_at, now())
where site = $1 and author_id = $2 and source = 'given' and address_mac = $3 returning true;

-- name: refuse_contact
update contacts set refused_at = now() where site = $1 and author_id = $2 and address_mac = $3;

-- name: enter_confirmation
-- Ask whether the address that author $2 of site $1 gave is theirs, at most once an hour for each address, and $3
-- times a day for all that they give, and $3 times a day for one address, which $4 knows again, whoever gives it: whom
-- it belongs to did not ask for it.
insert into deliveries (delivery_id, site, channel, kind, recipient_id, about, next_at)
select md5(format('confirmation %s %s %s %s', site, author_id, address_mac, date_trunc('hour', now())))::uuid,
    site, 'mail', 'confirmation', author_id, jsonb_build_object('address', address_mac, 'to', $4::text), now()
from contacts
where site = $1 and author_id = $2 and source = 'given' and confirmed_at is null and refused_at is null
    and $3 > (
        select count(*) from deliveries d
        where d.site = $1 and d.recipient_id = $2 and d.kind = 'confirmation'
            and d.created_at > now() - interval '1 day'
    )
    and $3 > (
        select count(*) from deliveries d
        where d.kind = 'confirmation' and d.about ->> 'to' = $4 and d.created_at > now() - interval '1 day'
    )
on conflict (delivery_id) do nothing
returning true;

-- name: take_notification
-- The notification $3 of recipient $2 of site $1, for the mail $4; none where another mail has it.
update notifications set mailed_in = $4
where recipient_id = $2 and site = $1 and notification_id = $3 and (mailed_in is null or mailed_in = $4)
returning reason, stream_id, comment_id, read_at is not null as read;

-- name: take_digest
-- What recipient $2 of site $1 was told of from $4 on, and neither read nor got by mail, is for the mail $3.
update notifications set mailed_in = $3
where recipient_id = $2 and site = $1 and notification_id >= $4 and read_at is null and mailed_in is null;

-- name: digest
-- What the mail $3 of recipient $2 of site $1 tells of, newest first, at most $5, and how many it is in all. Looked
-- for from $4 on, as it was taken.
select reason, stream_id, comment_id, count(*) over () as total
from notifications where recipient_id = $2 and site = $1 and notification_id >= $4 and mailed_in = $3
order by notification_id desc limit $5;

-- name: to_be_shown
-- Those of the comments $3, in the threads $2, that recipient $1 may hear of now, their thread not muted: what they may
-- see, and what was removed of their own.
select n.comment_id
from unnest($2::uuid[], $3::uuid[]) as n (stream_id, comment_id)
cross join lateral (select state, author_id from comments where comment_id = n.comment_id offset 0) c
where (c.state = 'visible' or (c.state in ('hidden', 'held', 'removed') and c.author_id = $1))
    and not exists (
        select from subscriptions s
        where s.stream_id = n.stream_id and s.author_id = $1 and s.level = 'muted'
    );

-- name: endpoint_switched_off
select url, owner, disabled_reason from webhook_endpoints
where endpoint_id = $1 and site = $2 and disabled_at is not null;

-- name: site_templates
select name, source, changed_at from site_templates where site = $1 order by name;

-- name: set_site_template
insert into site_templates (site, name, source)
select site, $2, $3 from sites where site = $1
on conflict (site, name) do update set source = excluded.source, changed_at = now()
returning true;

-- name: remove_site_template
delete from site_templates where site = $1 and name = $2 returning true;
