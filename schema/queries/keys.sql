-- name: insert_author_key
insert into author_keys (key_id, site, author_id, wrapped) values ($1, $2, $3, $4)
on conflict (site, author_id) where destroyed_at is null do nothing;

-- name: author_key
select key_id, wrapped from author_keys where site = $1 and author_id = $2 and destroyed_at is null;

-- name: author_keys
select key_id, wrapped from author_keys where key_id = any($1::uuid[]) and wrapped is not null;
