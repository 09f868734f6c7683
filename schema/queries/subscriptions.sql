-- What people follow, and what they want to be told of: rows of their own, which hold no event.

-- name: subscribe
-- Author $3 follows thread $1 of site $2 at level $4 from now on.
insert into subscriptions as s (stream_id, author_id, site, level) values ($1, $3, $2, $4)
on conflict (stream_id, author_id) do update set level = excluded.level where s.level <> excluded.level;

-- name: unsubscribe
-- Who had muted the thread is known from here on as somebody who has said what they want: verify cannot say what
-- they must have been told of.
with gone as (
    delete from subscriptions where stream_id = $1 and author_id = $2 returning site, author_id, level
)
insert into preferences (site, author_id) select site, author_id from gone where level = 'muted'
on conflict do nothing;

-- name: subscriptions_of
-- What author $2 of site $1 follows, behind thread $3, at most $4. A thread that nobody has written to has no key.
select u.stream_id, s.key, s.title, s.url, u.level, u.created_at
from subscriptions u left join streams s on s.stream_id = u.stream_id
where u.site = $1 and u.author_id = $2 and u.stream_id > $3 order by u.stream_id limit $4;

-- name: preferences
select mail, reasons, quiet, blocked from preferences where site = $1 and author_id = $2;

-- name: prefer
-- What author $2 of site $1 wants changes by $3, an object of the same members as a row: what is not in it stays, and
-- null is the default. The members of `reasons` count one by one. A zone that is none fails.
insert into preferences as p (site, author_id, mail, reasons, quiet, blocked)
select $1, $2, c.changes ->> 'mail', jsonb_strip_nulls(coalesce(nullif(c.changes -> 'reasons', 'null'), '{}')),
    nullif(c.changes -> 'quiet', 'null'),
    array(select jsonb_array_elements_text(coalesce(nullif(c.changes -> 'blocked', 'null'), '[]')))
from (select $3::jsonb as changes) c
where now() at time zone coalesce(c.changes -> 'quiet' ->> 'zone', 'UTC') is not null
on conflict (site, author_id) do update set
    mail = case when $3::jsonb ? 'mail' then excluded.mail else p.mail end,
    reasons = case
        when not $3::jsonb ? 'reasons' then p.reasons
        when $3::jsonb -> 'reasons' = 'null' then '{}'
        else jsonb_strip_nulls(p.reasons || ($3::jsonb -> 'reasons'))
    end,
    quiet = case when $3::jsonb ? 'quiet' then excluded.quiet else p.quiet end,
    blocked = case when $3::jsonb ? 'blocked' then excluded.blocked else p.blocked end,
    changed_at = now()
returning mail, reasons, quiet, blocked;

-- What somebody's erasure deletes of author $2 of site $1.

-- name: forget_contacts
delete from contacts where site = $1 and author_id = $2;

-- name: forget_deliveries
delete from deliveries where site = $1 and recipient_id = $2;

-- name: forget_preferences
delete from preferences where site = $1 and author_id = $2;

-- name: forget_subscriptions
delete from subscriptions where site = $1 and author_id = $2;

-- name: forget_untold
-- What they wrote, and was never shown.
delete from untold u using comments c
where c.comment_id = u.comment_id
    and c.key_id in (select key_id from erasures where site = $1 and author_id = $2);

-- name: own_deliveries
-- What went or is to go to recipient $2 of site $1, behind $3, at most $4.
select delivery_id, channel, kind, state, event_id, created_at, ended_at, reason from deliveries
where site = $1 and recipient_id = $2 and delivery_id > $3 order by delivery_id limit $4;
