-- name: notifier_checkpoint
-- How far the notifier is in stream $1. The row is locked until the transaction ends: of two notifiers the
-- second waits, and then sees where the first one left it.
select version from notifier_checkpoints where stream_id = $1 for update;

-- name: open_notifier_checkpoint
insert into notifier_checkpoints (stream_id, version) values ($1, 0) on conflict do nothing;

-- name: move_notifier_checkpoint
-- Compare-and-set: from version $2 to $3, or not at all.
update notifier_checkpoints set version = $3 where stream_id = $1 and version = $2 returning version;

-- name: silence_streams
-- Nobody is told of what the streams $1 hold up to the versions $2.
insert into notifier_checkpoints as c (stream_id, version, silent)
select stream_id, version, version from unnest($1::uuid[], $2::bigint[]) as s (stream_id, version)
on conflict (stream_id) do update set
    version = greatest(c.version, excluded.version), silent = greatest(c.silent, excluded.silent);

-- name: notifiable
-- What the notifier needs of the events of stream $1 after version $2, at most $3. Only replies are read.
select version, event_id, type, schema_version, actor_id, recorded_at,
    case when type = 'ReplyPosted' then data end as data
from events where stream_id = $1 and version > $2 order by version limit $3;

-- name: standings
-- How the comments $2 of thread $1 stand now.
select comment_id, author_id, state = 'visible' as visible
from comments where comment_id = any($2::uuid[]) and stream_id = $1;

-- name: thread_site
select site from streams where stream_id = $1 and key is not null;

-- name: insert_notifications
-- One for each person and event, however often it is told.
insert into notifications (
    site, recipient_id, notification_id, event_id, stream_id, comment_id, reason, actor_id, created_at
)
select $1, recipient_id, notification_id, event_id, $2, comment_id, reason, actor_id, created_at
from unnest(
    $3::text[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::timestamptz[]
) as n (recipient_id, notification_id, event_id, comment_id, reason, actor_id, created_at)
on conflict (recipient_id, site, event_id) do nothing
returning notification_id;

-- name: inbox_all
-- The notifications of recipient $2 on site $1 before $3, newest first, at most $4.
select n.notification_id, n.event_id, n.reason, n.stream_id, s.key, s.title, s.url, n.comment_id, n.actor_id,
    n.created_at, n.read_at is not null as read
from notifications n join streams s on s.stream_id = n.stream_id
where n.recipient_id = $2 and n.site = $1 and n.notification_id < $3
order by n.notification_id desc limit $4;

-- name: inbox_unread
select n.notification_id, n.event_id, n.reason, n.stream_id, s.key, s.title, s.url, n.comment_id, n.actor_id,
    n.created_at, n.read_at is not null as read
from notifications n join streams s on s.stream_id = n.stream_id
where n.recipient_id = $2 and n.site = $1 and n.notification_id < $3 and n.read_at is null
order by n.notification_id desc limit $4;

-- name: inbox_read
select n.notification_id, n.event_id, n.reason, n.stream_id, s.key, s.title, s.url, n.comment_id, n.actor_id,
    n.created_at, n.read_at is not null as read
from notifications n join streams s on s.stream_id = n.stream_id
where n.recipient_id = $2 and n.site = $1 and n.notification_id < $3 and n.read_at is not null
order by n.notification_id desc limit $4;

-- name: unread
select count(*) from notifications where recipient_id = $2 and site = $1 and read_at is null;

-- name: mark_read
update notifications set read_at = now()
where recipient_id = $2 and site = $1 and notification_id = any($3::uuid[]) and read_at is null;

-- name: mark_read_through
update notifications set read_at = now()
where recipient_id = $2 and site = $1 and notification_id <= $3 and read_at is null;
