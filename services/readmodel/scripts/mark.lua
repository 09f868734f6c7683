#!lua flags=allow-oom
-- Marks a view stale, or fresh, where it stands at a version: a byte, which a full server can spare.
-- KEYS: 1 head
-- ARGV: 1 the version; 2 stale: '1' or ''
-- Gives 1 where it did.
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'stale', ARGV[2])
return 1
