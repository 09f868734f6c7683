#!lua
-- Writes changes: into a view, by compare-and-set on its head, or into a build that is nobody's yet.
-- KEYS: 1 head; 2 nodes; 3 ids; 4 descendants; 5 what the keys of replies begin with (same slot)
-- ARGV: 1 version, 2 hash, 3 build expected of the head, or '' thrice for a build; 4 version, 5 hash, 6 meta,
--       7 stale of the new head; 8 how many values for nodes follow, 9 for ids, 10 for descendants; these as
--       field, value, field, value …; then for each parent: parent, how many of its replies a build has before, how
--       many values, and these as score, member …
-- Descendants are added to what a view has, but are final in a build: its writes may be repeated.
-- Gives 'applied', 'moved' (another head), 'absent' (none) or 'broken' (a part of it is gone).
local building = ARGV[3] == ''
local roots = KEYS[5] .. '0'
local function size()
  return table.concat({redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3]), redis.call('HLEN', KEYS[4]),
    redis.call('ZCARD', roots)}, ' ')
end
if not building then
  local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'size')
  if not head[3] then return 'absent' end
  if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] or head[3] ~= ARGV[3] then return 'moved' end
  if head[4] ~= size() then return 'broken' end
end

-- A key that is gone must not begin anew with what is written now: it would pass for whole.
local at = 11 + ARGV[8] + ARGV[9] + ARGV[10]
while at <= #ARGV do
  local parent, before, count = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if building then
    if before > 0 then
      local present = redis.call('ZCARD', KEYS[5] .. parent)
      -- Where the client sent the script twice, these replies are there already.
      if present ~= before and present ~= before + count / 2 then return 'broken' end
    end
  elseif parent ~= '0' then
    local expected = redis.call('HEXISTS', KEYS[4], parent)
    if expected ~= redis.call('EXISTS', KEYS[5] .. parent) then return 'broken' end
  end
  at = at + 3 + count
end

-- Lua takes about 8,000 values on its stack at once.
local SLICE = 4000
local function each_slice(from, count, write)
  local stop = from + count - 1
  for begin = from, stop, SLICE do
    write(begin, math.min(begin + SLICE - 1, stop))
  end
  return stop + 1
end

at = 11
at = each_slice(at, tonumber(ARGV[8]), function(begin, stop)
  redis.call('HSET', KEYS[2], unpack(ARGV, begin, stop))
end)
at = each_slice(at, tonumber(ARGV[9]), function(begin, stop)
  redis.call('HSET', KEYS[3], unpack(ARGV, begin, stop))
end)
at = each_slice(at, tonumber(ARGV[10]), function(begin, stop)
  if building then
    redis.call('HSET', KEYS[4], unpack(ARGV, begin, stop))
    return
  end
  local fields, sums = {}, {}
  for index = begin, stop, 2 do
    fields[#fields + 1] = ARGV[index]
  end
  local present = redis.call('HMGET', KEYS[4], unpack(fields))
  for index = 1, #fields do
    sums[#sums + 1] = fields[index]
    sums[#sums + 1] = tonumber(present[index] or 0) + tonumber(ARGV[begin + 2 * index - 1])
  end
  redis.call('HSET', KEYS[4], unpack(sums))
end)
while at <= #ARGV do
  local key = KEYS[5] .. ARGV[at]
  at = each_slice(at + 3, tonumber(ARGV[at + 2]), function(begin, stop)
    redis.call('ZADD', key, unpack(ARGV, begin, stop))
  end)
end

if not building then
  redis.call('HSET', KEYS[1], 'version', ARGV[4], 'hash', ARGV[5], 'meta', ARGV[6], 'stale', ARGV[7],
    'size', size())
end
return 'applied'
