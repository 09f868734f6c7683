-- What a live stream of an inbox reads: rows that no snapshot before has seen.

-- name: inbox_present
select pg_current_snapshot()::text;

-- name: inbox_since
-- The notifications of recipient $2 on site $1 that snapshot $3 does not see, at most $6, and the present snapshot,
-- which is there without any. Where $4 is given, $3 was read up to $4 in part, as far as $5: its rest comes first.
-- `later` says which are not of that rest. A row of the future was entered in another cluster, before it was restored.
select s.now::text, pg_snapshot_xmax($3::text::pg_snapshot) > pg_snapshot_xmax(s.now) as ahead, n.*
from (select pg_current_snapshot() as now) s left join lateral (
    select coalesce(not pg_visible_in_snapshot(n.told_in, $4::text::pg_snapshot), true) as later, n.notification_id,
        n.event_id, n.reason, n.stream_id, t.key, t.title, t.url, n.comment_id, n.actor_id, n.created_at,
        n.read_at is not null as read
    from notifications n join streams t on t.stream_id = n.stream_id
    where n.recipient_id = $2 and n.site = $1 and n.told_in >= pg_snapshot_xmin($3::text::pg_snapshot)
        and n.told_in < pg_snapshot_xmax(s.now) and not pg_visible_in_snapshot(n.told_in, $3::text::pg_snapshot)
        and ($4::text is null or n.notification_id > $5
            or not pg_visible_in_snapshot(n.told_in, $4::text::pg_snapshot))
    order by 1, n.notification_id limit $6
) n on true;

-- name: inbox_news
-- Which of the recipients $2 of the sites $1, by their place among them, have notifications that their snapshot $3
-- does not see; and the present snapshot, at place null.
select s.now::text, a.place
from (select pg_current_snapshot() as now) s left join lateral (
    select a.place - 1 as place
    from unnest($1::text[], $2::text[], $3::text[]) with ordinality as a (site, person, seen, place)
    where exists (
        select from notifications n
        where n.recipient_id = a.person and n.site = a.site and n.told_in >= pg_snapshot_xmin(a.seen::pg_snapshot)
            and n.told_in < pg_snapshot_xmax(s.now) and not pg_visible_in_snapshot(n.told_in, a.seen::pg_snapshot)
    )
) a on true;
