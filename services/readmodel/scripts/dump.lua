#!lua flags=no-writes
-- All that a small view holds, as it is at one moment, damaged as it may be.
-- KEYS: 1 head; 2 what all keys of the thread begin with (same slot)
-- ARGV: 1 how many nodes a small view has at most; then the letters of the lists
-- Gives {head} where there is none or none that names a build; {head, 'large'}; or {head, n, i, d, o, lists}, where
-- lists is {parent, letter, members and scores, ...}. A key that holds something else is told of by a string.
local head = redis.pcall('HMGET', KEYS[1], 'version', 'hash', 'build', 'meta', 'stale', 'size')
if head.err then return {head.err} end
if not head[3] then return {head} end
local build, ROOT = KEYS[2] .. head[3] .. ':', '\0\0\0\0'

local function all(...)
  local found = redis.pcall(...)
  if found.err then return found.err end
  return found
end

local function size(key)
  local found = redis.pcall('HLEN', key)
  return type(found) == 'number' and found or 0
end

if size(build .. 'n') > tonumber(ARGV[1]) or size(build .. 'd') > tonumber(ARGV[1]) then return {head, 'large'} end
local below, lists = all('HGETALL', build .. 'd'), {}

local function list(parent)
  for number = 2, #ARGV do
    local found = all('ZRANGE', build .. ARGV[number] .. ':' .. parent, 0, -1, 'WITHSCORES')
    if #found > 0 then
      lists[#lists + 1], lists[#lists + 2], lists[#lists + 3] = parent, ARGV[number], found
    end
  end
end

list(ROOT)
if type(below) == 'table' then
  for number = 1, #below, 2 do
    if #below[number] == 4 and below[number] ~= ROOT then list(below[number]) end
  end
end
return {head, all('HGETALL', build .. 'n'), all('HGETALL', build .. 'i'), below, all('HGETALL', build .. 'o'), lists}
