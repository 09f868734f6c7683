#!lua
-- Makes a build the thread's view, by compare-and-set on the head.
-- KEYS: 1 head; 2 the new build's own :h; 3 what the keys of the new build begin with (same slot)
-- ARGV: 1 version, 2 hash, 3 build expected of the head, or '' thrice for none; 4 version, 5 hash, 6 build,
--       7 meta, 8 stale of the new head; 9 how many comments were written
-- Gives 'applied', 'moved' (another head) or 'absent' (the build is not whole: somebody swept it away).
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build')
if (head[1] or '') ~= ARGV[1] or (head[2] or '') ~= ARGV[2] or (head[3] or '') ~= ARGV[3] then return 'moved' end
local build, ROOT = KEYS[3], '\0\0\0\0'
local nodes = redis.call('HLEN', build .. 'n')
local size = table.concat({nodes, redis.call('HLEN', build .. 'i'), redis.call('HLEN', build .. 'd'),
  redis.call('HLEN', build .. 'o'), redis.call('ZCARD', build .. 'k:' .. ROOT),
  redis.call('ZCARD', build .. 'b:' .. ROOT), redis.call('ZCARD', build .. 'c:' .. ROOT),
  redis.call('ZCARD', build .. 'r:' .. ROOT)}, ' ')
if nodes ~= tonumber(ARGV[9]) then return 'absent' end
if nodes > 0 and redis.call('HGET', KEYS[2], 'size') ~= size then return 'absent' end
redis.call('HSET', KEYS[1], 'version', ARGV[4], 'hash', ARGV[5], 'build', ARGV[6], 'meta', ARGV[7], 'stale', ARGV[8],
  'size', size)
redis.call('DEL', KEYS[2])
return 'applied'
