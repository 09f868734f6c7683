-- erasures: whose key was destroyed, and how far the log and the views have followed
-- depends: 0001_log 0003_votes

-- migrate: apply

create table erasures (
    -- also the id of the AuthorErased that tells of it
    erasure_id uuid primary key,
    -- in the order of commit: given under the locks of all lanes. Every process looks for what came after the
    -- last one that it knows.
    number bigint generated always as identity unique,
    site text not null,
    author_id text not null,
    key_id uuid not null,
    -- the author; null for an operator
    requested_by text,
    requested_at timestamptz not null,
    -- when the key's id was written to THREADLOG_ERASED_KEYS_FILE, where there is one
    filed_at timestamptz,
    -- who works on it does until then, unless renewed
    leased_until timestamptz,
    done_at timestamptz,
    comments bigint
);

create index erasures_unfinished on erasures (number) where done_at is null;
create index erasures_by_author on erasures (site, author_id, number);

-- Destroys the living key of an author, or the key `only_key`, and enters the erasure. It holds the locks of all
-- lanes from before it reads until it has committed: a batch is committed before, and its comments are found, or
-- loads afterwards, and finds no key. One statement, so that no client can freeze while it holds them.
-- `asked_key` and `asked_request` are the MACs of an Idempotency-Key, or null.
create function erase_author(
    of_site text, of_author text, only_key uuid, new_id uuid, by_whom text, site_stream uuid,
    asked_key bytea, asked_request bytea, lane_class integer
) returns table (outcome text, erasure uuid) language plpgsql
    set lock_timeout = '3s' set enable_seqscan = off as $$
declare
    first_time idempotency%rowtype;
    gone author_keys%rowtype;
    present timestamptz;
begin
    for lane_number in 0 .. (select value::int - 1 from database_facts where name = 'lanes') loop
        perform pg_advisory_xact_lock(lane_class, lane_number);
    end loop;
    present := clock_timestamp();
    if asked_key is not null then
        select * into first_time from idempotency
        where key_mac = asked_key and recorded_at > present - interval '30 days' limit 1;
        if found then
            return query select
                case when first_time.request_mac = asked_request then 'repeated' else 'reused' end,
                first_time.event_id;
            return;
        end if;
        insert into idempotency (key_mac, request_mac, stream_id, event_id, version, status, recorded_at)
        values (asked_key, asked_request, site_stream, new_id, 0, 202, present);
    end if;
    if only_key is null then
        update author_keys set wrapped = null, destroyed_at = present
        where site = of_site and author_id = of_author and destroyed_at is null
        returning * into gone;
    else
        update author_keys set wrapped = null, destroyed_at = present
        where key_id = only_key and wrapped is not null
        returning * into gone;
    end if;
    if gone.key_id is null then
        return query select 'nothing', null::uuid;
        return;
    end if;
    insert into erasures (erasure_id, site, author_id, key_id, requested_by, requested_at)
    values (new_id, gone.site, gone.author_id, gone.key_id, by_whom, present);
    return query select 'destroyed', new_id;
end
$$;

-- migrate: rollback
