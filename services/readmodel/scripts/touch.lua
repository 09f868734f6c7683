#!lua flags=no-writes
-- The nodes that a batch of events is about, and who stands above the comments that it replies to.
-- KEYS: 1 head; 2 what the keys of the build begin with (same slot)
-- ARGV: 1 version, 2 hash, 3 build expected of the head; 4 how many ids follow; the ids, 16 bytes each; then
--       posting versions, 4 bytes each
-- Gives {'absent'} no view, {'moved'} another head, {'broken'} a part of it is gone, or {'touched', posted of each id
-- or '', stored node of each id or '', edges}: edges are the posting version and the parent, 4 bytes each, of every
-- posting version asked for that the view has, and of all above it.
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'size')
if not head[3] then return {'absent'} end
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return {'moved'} end
local build, ROOT = KEYS[2], '\0\0\0\0'
local nodes, ids = build .. 'n', build .. 'i'
local size = table.concat({redis.call('HLEN', nodes), redis.call('HLEN', ids), redis.call('HLEN', build .. 'd'),
  redis.call('HLEN', build .. 'o'), redis.call('ZCARD', build .. 'k:' .. ROOT),
  redis.call('ZCARD', build .. 'b:' .. ROOT), redis.call('ZCARD', build .. 'c:' .. ROOT),
  redis.call('ZCARD', build .. 'r:' .. ROOT)}, ' ')
if head[4] ~= size then return {'broken'} end

local posted, stored = {}, {}
local last_id = 4 + tonumber(ARGV[4])
for index = 5, last_id do
  local place = #posted + 1
  posted[place], stored[place] = '', ''
  local known = redis.call('HGET', ids, ARGV[index])
  if known then
    local node = redis.call('HGET', nodes, known)
    if not node then return {'broken'} end
    posted[place], stored[place] = known, node
  end
end

local edges, seen = {}, {}
for index = last_id + 1, #ARGV do
  local asked = ARGV[index]
  local at = asked
  while at ~= ROOT and not seen[at] do
    local node = redis.call('HGET', nodes, at)
    if not node then
      if at ~= asked then return {'broken'} end
      break
    end
    seen[at] = true
    local parent = string.sub(node, 1, 4)
    edges[#edges + 1], edges[#edges + 2] = at, parent
    at = parent
  end
end
return {'touched', posted, stored, table.concat(edges)}
