#!lua flags=no-writes
-- The nodes that a batch of events is about, and who stands above the comments that it replies to.
-- KEYS: 1 head; 2 nodes; 3 ids; 4 descendants; 5 roots
-- ARGV: 1 version, 2 hash, 3 build expected of the head; 4 how many ids follow; the ids, 16 bytes each; then
--       posting versions
-- Gives {'absent'} no view, {'moved'} another head, {'broken'} a part of it is gone, or {'touched', posted of each id
-- or 0, node of each id or '', edges}: edges is a flat list of posting version and parent, for every posting
-- version asked for that the view has, and all above it.
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'size')
if not head[3] then return {'absent'} end
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return {'moved'} end
local size = table.concat({redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3]), redis.call('HLEN', KEYS[4]),
  redis.call('ZCARD', KEYS[5])}, ' ')
if head[4] ~= size then return {'broken'} end

local posted, raw = {}, {}
local last_id = 4 + tonumber(ARGV[4])
for index = 5, last_id do
  local place = #posted + 1
  posted[place], raw[place] = 0, ''
  local known = redis.call('HGET', KEYS[3], ARGV[index])
  if known then
    local node = redis.call('HGET', KEYS[2], known)
    if not node then return {'broken'} end
    posted[place], raw[place] = tonumber(known), node
  end
end

local edges, seen = {}, {}
for index = last_id + 1, #ARGV do
  local asked = tonumber(ARGV[index])
  local at = asked
  while at ~= 0 and not seen[at] do
    local node = redis.call('HGET', KEYS[2], at)
    if not node then
      if at ~= asked then return {'broken'} end
      break
    end
    seen[at] = true
    local parent = struct.unpack('>I4', node)
    edges[#edges + 1], edges[#edges + 2] = at, parent
    at = parent
  end
end
return {'touched', posted, raw, edges}
