-- notifications: who follows what, what people want to be told of, and what is on its way to them
-- depends: 0001_log 0011_silence

-- migrate: apply

-- Rows, not events: preferences of people, who may change or erase them at any time.

create table subscriptions (
    stream_id uuid not null,
    author_id text not null,
    site text not null,
    level text not null check (level in ('all', 'mentions', 'muted')),
    -- cuts the followers of a large thread into parts that many workers tell at once
    part smallint not null generated always as ((hashtext(author_id) & 15)::smallint) stored,
    created_at timestamptz not null default now(),
    primary key (stream_id, author_id)
);

create index subscriptions_to_tell on subscriptions (stream_id, part, author_id) where level = 'all';
create index subscriptions_by_author on subscriptions (site, author_id, stream_id);

create table preferences (
    site text not null,
    author_id text not null,
    -- null: hourly where a token carries an address, else off
    mail text check (mail in ('now', 'hourly', 'daily', 'weekly', 'off')),
    -- those of the reasons that were given: {"ancestor": true}
    reasons jsonb not null default '{}',
    -- {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}
    quiet jsonb,
    blocked text[] not null default '{}',
    changed_at timestamptz not null default now(),
    primary key (site, author_id)
);

create index preferences_for_ancestors on preferences (site, author_id) where reasons @> '{"ancestor": true}';

-- Where somebody's mail goes. The address is sealed under their own key, and goes with it.
create table contacts (
    site text not null,
    author_id text not null,
    -- token: their site vouches for it. given: they did, and it counts once it is confirmed.
    source text not null check (source in ('token', 'given')),
    key_id uuid not null,
    sealed bytea not null,
    -- a keyed digest by which the same address is known again
    address_mac text not null,
    confirmed_at timestamptz,
    -- since when a mail server says that nobody is there
    refused_at timestamptz,
    changed_at timestamptz not null default now(),
    primary key (site, author_id, source)
);

-- What the notifier keeps for itself, in the transactions that tell.

-- Up to which version of a thread its names are in `participants` and `mentioned`.
alter table notifier_checkpoints add column named bigint not null default 0;

-- By which names a thread knows its authors: keyed digests of the names as they stand in the log.
create table participants (
    stream_id uuid not null,
    name_mac bytea not null,
    author_id text not null,
    -- of their last comment under this name
    version bigint not null,
    primary key (stream_id, name_mac, author_id)
);

create index participants_by_author on participants (author_id, stream_id);

-- Whom a comment's text names, and whom only earlier texts of it named, so that an edit tells only the new ones.
create table mentioned (
    comment_id uuid primary key,
    stream_id uuid not null,
    -- of the event with that text
    version bigint not null,
    people text[] not null,
    before text[] not null default '{}'
);

create index mentioned_by_stream on mentioned (stream_id);

-- Events that brought a text which nobody was to see yet: told of when it is approved.
create table untold (
    stream_id uuid not null,
    comment_id uuid not null,
    version bigint not null,
    event_id uuid not null,
    -- whom the event's text was the first to name
    people text[] not null default '{}',
    primary key (stream_id, comment_id, version)
);

-- Followers of a thread that are still to be told of one event: `after` is the last one of the part that was.
create table fanouts (
    stream_id uuid not null,
    event_id uuid not null,
    part smallint not null,
    site text not null,
    comment_id uuid not null,
    version bigint not null,
    actor_id text,
    created_at timestamptz not null,
    after text not null default '',
    entered_at timestamptz not null default now(),
    primary key (stream_id, event_id, part)
);

create index fanouts_by_age on fanouts (entered_at);

-- In which transaction a notification was entered: what a stream's reader has seen is a snapshot. And the mail
-- that it went out with, where that was one of several in it.
alter table notifications add column told_in xid8;
alter table notifications alter column told_in set default pg_current_xact_id();
alter table notifications add column mailed_in uuid;

-- What leaves for somewhere else: a mail, a webhook. Its id follows from what it is, so it is entered once.
create table deliveries (
    delivery_id uuid primary key,
    site text not null,
    channel text not null check (channel in ('mail', 'webhook')),
    -- notification, digest, confirmation, endpoint-off
    kind text not null,
    -- whose mail it is
    recipient_id text,
    endpoint_id uuid,
    -- the event that brought the text
    event_id uuid,
    -- ids, no content
    about jsonb not null default '{}',
    state text not null default 'pending' check (state in ('pending', 'sent', 'dead', 'dropped')),
    attempts smallint not null default 0,
    -- when it is due, or, while it is being sent, when it is taken to be lost
    next_at timestamptz not null,
    -- why it did not go out, in words
    reason text,
    created_at timestamptz not null default now(),
    ended_at timestamptz
) with (fillfactor = 70);

create index deliveries_due on deliveries (channel, next_at) where state = 'pending';
create index deliveries_of_person on deliveries (site, recipient_id) where recipient_id is not null;
create index deliveries_of_endpoint on deliveries (endpoint_id, next_at)
where state = 'pending' and channel = 'webhook';
create index deliveries_ended on deliveries (ended_at) where ended_at is not null;
create index deliveries_asked on deliveries ((about ->> 'to'), created_at) where kind = 'confirmation';
create index deliveries_first on deliveries (channel, next_at) where state = 'pending' and kind <> 'digest';
create index deliveries_dead on deliveries (channel, site, ended_at) where state = 'dead';

create table webhook_endpoints (
    endpoint_id uuid primary key,
    site text not null,
    url text not null,
    -- the secret that signs, under the master key, bound to the endpoint's id
    wrapped bytea not null,
    -- the one that it replaced, which signs too until then
    wrapped_before bytea,
    before_until timestamptz,
    -- the mail address of who is told when it is switched off
    owner text,
    created_at timestamptz not null default now(),
    -- since when every attempt failed, and how many
    failing_since timestamptz,
    failures integer not null default 0,
    -- the circuit is open: nothing is sent before then
    open_until timestamptz,
    disabled_at timestamptz,
    disabled_reason text
);

create index webhook_endpoints_by_site on webhook_endpoints (site) where disabled_at is null;

-- A site's own words, in the place of ours.
create table site_templates (
    site text not null,
    name text not null,
    source text not null,
    changed_at timestamptz not null default now(),
    primary key (site, name)
);

-- When a mail of somebody who wants them `so` is due, seen from `present`: at the next full hour, at eight the next
-- morning, at eight on the next Monday, in their own time zone.
create function mail_due(so text, zone text, present timestamptz) returns timestamptz language sql stable as $$
    select case so
        when 'now' then present
        when 'hourly' then date_trunc('hour', present) + interval '1 hour'
        when 'daily' then (
            date_trunc('day', present at time zone zone - interval '8 hours') + interval '1 day 8 hours'
        ) at time zone zone
        when 'weekly' then (
            date_trunc('week', present at time zone zone - interval '8 hours') + interval '7 days 8 hours'
        ) at time zone zone
    end
$$;

-- migrate: rollback
