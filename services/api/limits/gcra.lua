#!lua
-- Charges writes against their limits (GCRA, as in policy.py): a write is taken where all of its limits have
-- room, and then charged to each; a refused one is charged to none.
-- A limit is one number: its theoretical arrival time, in microseconds of this server's clock. The key ends
-- when that time has come, since it then says no more than no key.
-- KEYS: the limits, write after write; the same key may come many times
-- ARGV: for each key its interval and its window in microseconds; the window is negative at a write's last key
-- Gives for each key how much of its window is used, in microseconds; as -1 - used where the write is refused.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stored = redis.call('MGET', unpack(KEYS))
local due, changed, used, first = {}, {}, {}, 1
for i = 1, #KEYS do
  local key, window = KEYS[i], tonumber(ARGV[2 * i])
  if due[key] == nil then
    -- A clock that was set back must not refuse for longer than a window.
    due[key] = math.min(math.max(tonumber(stored[i]) or now, now), now + math.abs(window))
  end
  if window < 0 then
    local taken = true
    for j = first, i do
      if due[KEYS[j]] - now + ARGV[2 * j - 1] > math.abs(ARGV[2 * j]) then taken = false end
    end
    for j = first, i do
      local one = KEYS[j]
      if taken then
        due[one] = due[one] + ARGV[2 * j - 1]
        changed[one] = true
        used[j] = due[one] - now
      else
        used[j] = now - due[one] - 1
      end
    end
    first = i + 1
  end
end
for key in pairs(changed) do
  redis.call('SET', key, string.format('%.0f', due[key]), 'PX', math.ceil((due[key] - now) / 1000))
end
return used
