#!lua
-- Writes changes: into a view, by compare-and-set on its head, or into a build that is nobody's yet.
-- KEYS: 1 head, or a build's own :h; 2 what the keys of the build begin with (same slot)
-- ARGV: 1 version, 2 hash, 3 build expected of the head, or '' thrice for a build; 4 version, 5 hash, 6 meta,
--       7 stale of the new head; for a build 4 is 'first' in its first call; then how many values follow for
--       each of: 8 nodes (field, value …), 9 ids (field, value …), 10 overlay (field, value …), 11 fields that
--       go from the overlay, 12 lists (list, score, member …), 13 members that go from ranked lists (list, member …),
--       14 descendants (field, number …); then these. A list is the end of its key: 'k:' and the parent.
-- Descendants are added to what a view has, but are final in a build: its writes may be repeated.
-- Gives 'applied', 'moved' (another head), 'absent' (none) or 'broken' (a part of it is gone).
local building, build = ARGV[3] == '', KEYS[2]
local nodes, counts = build .. 'n', build .. 'd'
local ROOT = '\0\0\0\0'
local BIT = {b = 1, c = 2, r = 4}
local FIRST = 5

local function size()
  return table.concat({redis.call('HLEN', nodes), redis.call('HLEN', build .. 'i'), redis.call('HLEN', counts),
    redis.call('HLEN', build .. 'o'), redis.call('ZCARD', build .. 'k:' .. ROOT),
    redis.call('ZCARD', build .. 'b:' .. ROOT), redis.call('ZCARD', build .. 'c:' .. ROOT),
    redis.call('ZCARD', build .. 'r:' .. ROOT)}, ' ')
end
local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'size')
if building then
  if (head[4] or ARGV[4] ~= 'first') and head[4] ~= size() then return 'broken' end
else
  if not head[3] then return 'absent' end
  if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return 'moved' end
  if head[4] ~= size() then return 'broken' end
end

local start = {15}
for part = 1, 7 do start[part + 1] = start[part] + ARGV[7 + part] end
local NODES, IDS, SEEN_BY, SEEN, LISTED, UNLISTED, BELOW = 1, 2, 3, 4, 5, 6, 7
-- Lua takes about 8,000 values on its stack at once.
local SLICE = 6000
local function each_slice(part, write)
  for begin = start[part], start[part + 1] - 1, SLICE do
    write(begin, math.min(begin + SLICE, start[part + 1]) - 1)
  end
end

-- What changes in the lists, by list, and whose records change with it.
local put, cut, fields, records = {}, {}, {}, {}
local function about(posted)
  if posted ~= ROOT and not records[posted] then
    records[posted] = {0, 0, 0, ''}
    fields[#fields + 1] = posted
  end
end
local function listed(lists, list)
  local values = lists[list]
  if not values then
    values = {}
    lists[list] = values
    about(string.sub(list, 3))
  end
  return values
end
for at = start[LISTED], start[LISTED + 1] - 1, 3 do
  local values = listed(put, ARGV[at])
  values[#values + 1], values[#values + 2] = ARGV[at + 1], ARGV[at + 2]
end
for at = start[UNLISTED], start[UNLISTED + 1] - 1, 2 do
  local values = listed(cut, ARGV[at])
  values[#values + 1] = ARGV[at + 1]
end

-- Where those stand whose number of descendants changes: it is their score in their parent's list.
local place = {}
for at = start[NODES], start[NODES + 1] - 1, 2 do
  place[ARGV[at]] = string.sub(ARGV[at + 1], 1, 12)
end
local asked = {}
for at = start[BELOW], start[BELOW + 1] - 1, 2 do
  about(ARGV[at])
  if not place[ARGV[at]] then asked[#asked + 1] = ARGV[at] end
end
for begin = 1, #asked, SLICE do
  local stop = math.min(begin + SLICE - 1, #asked)
  local found = redis.call('HMGET', nodes, unpack(asked, begin, stop))
  for index = begin, stop do
    local node = found[index - begin + 1]
    if not node then return 'broken' end
    place[asked[index]] = string.sub(node, 1, 12)
  end
end
for at = start[BELOW], start[BELOW + 1] - 1, 2 do
  about(string.sub(place[ARGV[at]], 1, 4))
end

for begin = 1, #fields, SLICE do
  local stop = math.min(begin + SLICE - 1, #fields)
  local found = redis.call('HMGET', counts, unpack(fields, begin, stop))
  for index = begin, stop do
    local record = found[index - begin + 1]
    if record then
      if #record < 9 then return 'broken' end
      local children, below, lists = struct.unpack('>I4I4B', record)
      records[fields[index]] = {children, below, lists, string.sub(record, 10)}
    end
  end
end
for at = start[BELOW], start[BELOW + 1] - 1, 2 do
  local posted, below = ARGV[at], tonumber(ARGV[at + 1])
  local record = records[posted]
  record[2] = building and below or record[2] + below
  local values = listed(put, 'r:' .. string.sub(place[posted], 1, 4))
  values[#values + 1], values[#values + 2] = -record[2], string.sub(place[posted], 5) .. posted
end

-- A list that is gone must not begin anew with what is written now: it would pass for whole.
local function whole(list)
  local kind, record = string.sub(list, 1, 1), records[string.sub(list, 3)]
  if not record then return true end -- the roots: `size` has told
  if kind == 'k' then return redis.call('ZCARD', build .. list) == record[1] end
  return redis.call('EXISTS', build .. list) == (bit.band(record[3], BIT[kind]) ~= 0 and 1 or 0)
end
for list in pairs(put) do
  if not whole(list) then return 'broken' end
end
for list in pairs(cut) do
  if not put[list] and not whole(list) then return 'broken' end
end

each_slice(NODES, function(begin, stop) redis.call('HSET', nodes, unpack(ARGV, begin, stop)) end)
each_slice(IDS, function(begin, stop) redis.call('HSET', build .. 'i', unpack(ARGV, begin, stop)) end)
each_slice(SEEN_BY, function(begin, stop) redis.call('HSET', build .. 'o', unpack(ARGV, begin, stop)) end)
each_slice(SEEN, function(begin, stop) redis.call('HDEL', build .. 'o', unpack(ARGV, begin, stop)) end)
local function noted(list)
  local kind, record = string.sub(list, 1, 1), records[string.sub(list, 3)]
  if not record then return end
  if kind == 'k' then
    record[1] = redis.call('ZCARD', build .. list)
    record[4] = table.concat(redis.call('ZRANGE', build .. list, 0, FIRST - 1))
    return
  end
  local without = bit.band(record[3], bit.bnot(BIT[kind]))
  record[3] = redis.call('EXISTS', build .. list) == 1 and without + BIT[kind] or without
end
for list, values in pairs(put) do
  for begin = 1, #values, SLICE do
    redis.call('ZADD', build .. list, unpack(values, begin, math.min(begin + SLICE - 1, #values)))
  end
  noted(list)
end
for list, values in pairs(cut) do
  for begin = 1, #values, SLICE do
    redis.call('ZREM', build .. list, unpack(values, begin, math.min(begin + SLICE - 1, #values)))
  end
  noted(list)
end
local written = {}
for _, posted in ipairs(fields) do
  local record = records[posted]
  if record[1] + record[2] > 0 then
    written[#written + 1], written[#written + 2] = posted, struct.pack('>I4I4B', record[1], record[2], record[3])
      .. record[4]
  end
end
for begin = 1, #written, SLICE do
  redis.call('HSET', counts, unpack(written, begin, math.min(begin + SLICE - 1, #written)))
end

if building then
  redis.call('HSET', KEYS[1], 'size', size())
else
  redis.call('HSET', KEYS[1], 'version', ARGV[4], 'hash', ARGV[5], 'meta', ARGV[6], 'stale', ARGV[7],
    'size', size())
end
return 'applied'
