#!lua flags=no-writes
-- Picks a page's comments, breadth first. services.core.page.FoldIndex.page is the same in memory.
-- KEYS: 1 head; 2 what all keys of this thread begin with (same slot: the build's keys are named by the head)
-- ARGV: 1 'newest' or 'oldest'; 2 limit; 3 replies; 4 depth; 5 parent's id, 16 bytes, or ''; 6 posting version
--       of the last comment shown before, or ''; 7 most comments on a page; 8 most ids in a path
-- Gives {'absent'} no view, {'broken', build} a part of it is gone, {'parent'} no such parent, {'cursor'}
-- nothing to go on after, or {'page', head, parent, roots, more, path, posted, parents, nodes, children,
-- descendants, shown, last}.
local newest, limit, replies, depth = ARGV[1] == 'newest', tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most, most_above = tonumber(ARGV[7]), tonumber(ARGV[8])

local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'meta', 'stale', 'size')
if not head[3] then return {'absent'} end
local broken = {'broken', head[3]}
local build = KEYS[2] .. head[3] .. ':'
local nodes, ids, below, kids = build .. 'n', build .. 'i', build .. 'd', build .. 'k:'

-- See that none of this view's keys is gone; those of replies are looked at where they are needed.
local size = table.concat({redis.call('HLEN', nodes), redis.call('HLEN', ids), redis.call('HLEN', below),
  redis.call('ZCARD', kids .. '0')}, ' ')
if head[6] ~= size then return broken end

local parent, path = 0, {}
if ARGV[5] ~= '' then
  parent = tonumber(redis.call('HGET', ids, ARGV[5]) or 0)
  if parent == 0 then return {'parent'} end
  local above = parent
  while above ~= 0 and #path < most_above do
    local node = redis.call('HGET', nodes, above)
    if not node then return broken end
    path[#path + 1] = string.sub(node, 12, 47)
    above = struct.unpack('>I4', node)
  end
end

local from = 0
if ARGV[6] ~= '' then
  local rank = redis.call(newest and 'ZREVRANK' or 'ZRANK', kids .. parent, struct.pack('>I4', tonumber(ARGV[6])))
  if not rank then return {'cursor'} end
  from = rank + 1
end

local posted, parents = {}, {}
local children, descendants, shown, last = {}, {}, {}, {}

local function take(of, start, wanted)
  local stop = start + wanted - 1
  local members = newest and redis.call('ZRANGE', kids .. of, start, stop, 'REV')
    or redis.call('ZRANGE', kids .. of, start, stop)
  for index = 1, #members do
    posted[#posted + 1] = struct.unpack('>I4', members[index])
    parents[#parents + 1] = of
  end
  return #members
end

local top = take(parent, from, limit)
local more = redis.call('ZCARD', kids .. parent) > from + top
local begin, level = 1, 0
while begin <= #posted do
  local stop = #posted
  local counts = redis.call('HMGET', below, unpack(posted, begin, stop))
  for index = begin, stop do
    descendants[index] = tonumber(counts[index - begin + 1] or 0)
    children[index], shown[index], last[index] = 0, 0, 0
    if descendants[index] > 0 then
      children[index] = redis.call('ZCARD', kids .. posted[index])
      if children[index] == 0 then return broken end
      local wanted = math.min(replies, most - #posted)
      if level < depth and wanted > 0 then
        shown[index] = take(posted[index], 0, wanted)
        last[index] = posted[#posted]
      end
    end
  end
  begin, level = stop + 1, level + 1
end

local raw = {}
if #posted > 0 then
  raw = redis.call('HMGET', nodes, unpack(posted))
  for index = 1, #raw do
    if not raw[index] then return broken end
  end
end
return {'page', head, parent, top, more and 1 or 0, path, posted, parents, raw, children, descendants, shown, last}
