#!lua flags=allow-oom
-- Unlinks a small build with all its keys, unless it is the thread's view.
-- KEYS: 1 head; 2 what the keys of the build begin with (same slot)
-- ARGV: 1 build
-- Gives 0 where it is the thread's view and stays, else 1.
if redis.call('HGET', KEYS[1], 'build') == ARGV[1] then return 0 end
local build = KEYS[2]
local names = {}
local function lists(parent)
  for letter in string.gmatch('kbcr', '.') do names[#names + 1] = build .. letter .. ':' .. parent end
end
lists('\0\0\0\0')
-- The counts name the lists. Should a hand have made something else of them, what they named is left behind.
if redis.call('TYPE', build .. 'd').ok == 'hash' then
  for _, parent in ipairs(redis.call('HKEYS', build .. 'd')) do lists(parent) end
end
for part in string.gmatch('nidoh', '.') do names[#names + 1] = build .. part end
for begin = 1, #names, 6000 do
  redis.call('UNLINK', unpack(names, begin, math.min(begin + 5999, #names)))
end
return 1
