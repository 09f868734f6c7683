#!lua
-- Makes a build the thread's view, by compare-and-set on the head.
-- KEYS: 1 head; 2 nodes, 3 ids, 4 descendants, 5 roots of the new build
-- ARGV: 1 version, 2 hash, 3 build expected of the head, or '' thrice for none; 4 version, 5 hash, 6 build,
--       7 meta, 8 stale of the new head; 9 its size: how many nodes, ids, descendants, roots were written
-- Gives 'applied', 'moved' (another head) or 'absent' (the build is not whole: somebody swept it away).
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build')
if (head[1] or '') ~= ARGV[1] or (head[2] or '') ~= ARGV[2] or (head[3] or '') ~= ARGV[3] then return 'moved' end
local size = table.concat({redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3]), redis.call('HLEN', KEYS[4]),
  redis.call('ZCARD', KEYS[5])}, ' ')
if size ~= ARGV[9] then return 'absent' end
redis.call('HSET', KEYS[1], 'version', ARGV[4], 'hash', ARGV[5], 'build', ARGV[6], 'meta', ARGV[7], 'stale', ARGV[8],
  'size', size)
return 'applied'
