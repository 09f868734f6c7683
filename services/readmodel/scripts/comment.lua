#!lua flags=no-writes
-- One comment and the ids above it.
-- KEYS: 1 head; 2 what all keys of this thread begin with (same slot: the build's keys are named by the head)
-- ARGV: 1 the comment's id, 16 bytes; 2 most ids in a path
-- Gives {'absent'} no view, {'broken', build} a part of it is gone, {'none', head} no such comment, or
-- {'comment', head, posted, parent, node, children, descendants, path}, the path nearest first.
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'meta', 'stale', 'size')
if not head[3] then return {'absent'} end
local broken = {'broken', head[3]}
local build = KEYS[2] .. head[3] .. ':'
local nodes, ids, below, kids = build .. 'n', build .. 'i', build .. 'd', build .. 'k:'

local size = table.concat({redis.call('HLEN', nodes), redis.call('HLEN', ids), redis.call('HLEN', below),
  redis.call('ZCARD', kids .. '0')}, ' ')
if head[6] ~= size then return broken end

local posted = redis.call('HGET', ids, ARGV[1])
if not posted then return {'none', head} end
posted = tonumber(posted)
local raw = redis.call('HGET', nodes, posted)
if not raw then return broken end
local parent = struct.unpack('>I4', raw)
local path, above = {}, parent
while above ~= 0 and #path < tonumber(ARGV[2]) do
  local node = redis.call('HGET', nodes, above)
  if not node then return broken end
  path[#path + 1] = string.sub(node, 12, 47)
  above = struct.unpack('>I4', node)
end
local descendants = tonumber(redis.call('HGET', below, posted) or 0)
local children = 0
if descendants > 0 then
  children = redis.call('ZCARD', kids .. posted)
  if children == 0 then return broken end
end
return {'comment', head, posted, parent, raw, children, descendants, path}
