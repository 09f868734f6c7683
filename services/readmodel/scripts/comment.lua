#!lua flags=no-writes
-- One comment and those above it.
-- KEYS: 1 head; 2 what all keys of this thread begin with (same slot: the build's keys are named by the head)
-- ARGV: 1 the comment's id, 16 bytes; 2 most comments in a path
-- Gives {'absent'} no view, {'broken', build} a part of it is gone, {'none', head} no such comment, or
-- {'comment', head, posted, parent, counts, nodes}: 4 bytes, 4 bytes, its record in :d or '', and the stored nodes,
-- its own first, then those above it.
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'meta', 'stale', 'size')
if not head[3] then return {'absent'} end
local broken = {'broken', head[3]}
local build, ROOT = KEYS[2] .. head[3] .. ':', '\0\0\0\0'
local nodes, ids, counts = build .. 'n', build .. 'i', build .. 'd'
local size = table.concat({redis.call('HLEN', nodes), redis.call('HLEN', ids), redis.call('HLEN', counts),
  redis.call('HLEN', build .. 'o'), redis.call('ZCARD', build .. 'k:' .. ROOT),
  redis.call('ZCARD', build .. 'b:' .. ROOT), redis.call('ZCARD', build .. 'c:' .. ROOT),
  redis.call('ZCARD', build .. 'r:' .. ROOT)}, ' ')
if head[6] ~= size then return broken end

local posted = redis.call('HGET', ids, ARGV[1])
if not posted then return {'none', head} end
local stored, at = {}, posted
while at ~= ROOT and #stored <= tonumber(ARGV[2]) do
  local node = redis.call('HGET', nodes, at)
  if not node or #node < 12 then return broken end
  stored[#stored + 1] = node
  at = string.sub(node, 1, 4)
end
local count = redis.call('HGET', counts, posted)
if count and redis.call('ZCARD', build .. 'k:' .. posted) ~= struct.unpack('>I4', count) then return broken end
return {'comment', head, posted, string.sub(stored[1], 1, 4), count or '', stored}
