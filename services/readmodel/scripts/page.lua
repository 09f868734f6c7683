#!lua flags=no-writes
-- Picks a page's comments, breadth first. services.core.page.FoldIndex.page is the same in memory.
-- KEYS: 1 head; 2 what all keys of this thread begin with (same slot: the build's keys are named by the head)
-- ARGV: 1 sort; 2 limit; 3 replies; 4 depth; 5 'parent' or 'focus' and 6 its id, 16 bytes, or '' and ''; 7 posting
--       version of the comment to go on behind, or ''; 8 the score that it had; 9 most comments on a page; 10 most
--       ids in a path; 11 most comments in the overlay
-- Gives {'absent'} no view, {'broken', build} a part of it is gone, {'parent'} or {'focus'} no such comment,
-- {'cursor'} nothing to go on behind, {'far', posted} nothing found yet: ask for what is behind that one, which
-- has no score; or {'page', head, parent, roots, more, pathed, above, overlay, posted, parents, counts, shown,
-- scores, nodes}. above: the stored nodes of those above the page's top, nearest first; overlay: authors, or '';
-- then columns, in bytes, of 4, 4, 8, 4 and 8 (none in the orders of time) for each comment; the stored nodes.
local LIST = {best = 'b:', controversial = 'c:', replies = 'r:'}
local BIT = {best = 1, controversial = 2, replies = 4}
local sort, limit, replies, depth = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most, most_above = tonumber(ARGV[9]), tonumber(ARGV[10])
local newest, list, bit_of_sort = sort == 'newest', LIST[sort], BIT[sort]
local ROOT, NO_SCORE, NO_COUNTS = '\0\0\0\0', string.rep('\0', 8), string.rep('\0', 8)
local LOOK = 2000 -- as many comments of a list are looked at for those without a score

local head = redis.call('HMGET', KEYS[1], 'version', 'hash', 'build', 'meta', 'stale', 'size')
if not head[3] then return {'absent'} end
local broken = {'broken', head[3]}
local build = KEYS[2] .. head[3] .. ':'
local nodes, ids, records, kids = build .. 'n', build .. 'i', build .. 'd', build .. 'k:'
local ranked = list and build .. list

-- See that none of this view's keys is gone; the lists of replies are looked at where they are needed.
local hidden, roots = redis.call('HLEN', build .. 'o'), redis.call('ZCARD', kids .. ROOT)
local size = table.concat({redis.call('HLEN', nodes), redis.call('HLEN', ids), redis.call('HLEN', records), hidden,
  roots, redis.call('ZCARD', build .. 'b:' .. ROOT), redis.call('ZCARD', build .. 'c:' .. ROOT),
  redis.call('ZCARD', build .. 'r:' .. ROOT)}, ' ')
if head[6] ~= size then return broken end

local posted, parents, counts, shown, scores = {}, {}, {}, {}, {}
local function pick(comment, parent, score)
  local place = #posted + 1
  posted[place], parents[place] = comment, parent
  if list then scores[place] = score end
end

local function above(comment, count)
  local found = {}
  while comment ~= ROOT and #found < count do
    local node = redis.call('HGET', nodes, comment)
    if not node or #node < 12 then return nil end
    found[#found + 1] = node
    comment = string.sub(node, 1, 4)
  end
  return found
end

-- The first `wanted` of the replies to `of`, whose ranked list `is` or is not there; `all` are there, and `named` are
-- the first of them by time, 4 bytes each, if they are at hand.
local function first(of, wanted, is, all, named)
  local count, seen = 0, nil
  if not (list and is) then
    if wanted > all then wanted = all end
    if newest then
      if #named == 4 * all then
        for at = #named - 3, #named - 4 * wanted + 1, -4 do pick(string.sub(named, at, at + 3), of, NO_SCORE) end
        return wanted
      end
    elseif #named >= 4 * wanted then
      for at = 1, 4 * wanted, 4 do pick(string.sub(named, at, at + 3), of, NO_SCORE) end
      return wanted
    end
  end
  if list and is then
    local best = redis.call('ZRANGE', ranked .. of, 0, wanted - 1, 'WITHSCORES')
    count = #best / 2
    if count == 0 then return 0 end
    seen = {}
    for index = 1, #best, 2 do
      local comment = string.sub(best[index], 9)
      seen[comment] = true
      pick(comment, of, struct.pack('>d', -tonumber(best[index + 1])))
    end
    if count == wanted then return count end
  end
  -- No more than `count` of these are in the ranked list too.
  local rest = newest and redis.call('ZRANGE', kids .. of, 0, wanted - 1, 'REV')
    or redis.call('ZRANGE', kids .. of, 0, wanted - 1)
  for index = 1, #rest do
    if count == wanted then break end
    if not (seen and seen[rest[index]]) then
      pick(rest[index], of, NO_SCORE)
      count = count + 1
    end
  end
  return count
end

-- Up to `wanted` replies to `of` without a score, from a place in the order of time on; whether there are more.
-- nil and the last one looked at, where none is among the next ones.
local function unranked(of, from, wanted, is)
  local count, looked, last = 0, 0, nil
  while looked < LOOK do
    local chunk = math.min(looked == 0 and wanted + 1 or math.max(looked, 50), LOOK - looked)
    local members = redis.call('ZRANGE', kids .. of, from + looked, from + looked + chunk - 1, 'WITHSCORES')
    if #members == 0 then return count, false end
    local found
    if is then
      local asked = {}
      for index = 1, #members, 2 do
        asked[#asked + 1] = struct.pack('>I8', tonumber(members[index + 1])) .. members[index]
      end
      found = redis.call('ZMSCORE', ranked .. of, unpack(asked))
    end
    for index = 1, #members, 2 do
      last = members[index]
      if not (found and found[(index + 1) / 2]) then
        if count == wanted then return count, true end
        pick(last, of, NO_SCORE)
        count = count + 1
      end
    end
    looked = looked + #members / 2
    if #members / 2 < chunk then return count, false end
  end
  if count == 0 then return nil, last end
  return count, true
end

-- How many of the ranked list come before what follows on `comment`, which had this score, negative.
local function behind(key, comment, score)
  local node = redis.call('HGET', nodes, comment)
  if not node or #node < 12 then return nil end
  local member = string.sub(node, 5, 12) .. comment
  local now = redis.call('ZSCORE', key, member)
  if now and tonumber(now) == tonumber(score) then return redis.call('ZRANK', key, member) + 1 end
  local low, high = redis.call('ZCOUNT', key, '-inf', '(' .. score), redis.call('ZCOUNT', key, '-inf', score)
  local time, version = struct.unpack('>I8I4', member)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local its_time, its_version = struct.unpack('>I8I4', redis.call('ZRANGE', key, middle, middle)[1])
    if its_time < time or (its_time == time and its_version < version) then low = middle + 1 else high = middle end
  end
  return low
end

local parent, top, more, pathed, path = ROOT, 0, false, 0, {}
if ARGV[5] == 'focus' then
  local comment = redis.call('HGET', ids, ARGV[6])
  if not comment then return {'focus'} end
  local chain = above(comment, most_above + 1)
  if not chain then return broken end
  local line = {comment}
  for index = 1, #chain do line[index + 1] = string.sub(chain[index], 1, 4) end
  for index = #chain, 1, -1 do
    local score = NO_SCORE
    if list then
      local now = redis.call('ZSCORE', ranked .. line[index + 1], string.sub(chain[index], 5, 12) .. line[index])
      if now then score = struct.pack('>d', -tonumber(now)) end
    end
    pick(line[index], line[index + 1], score)
  end
  top, pathed, parent = 1, #chain - 1, line[#chain + 1]
  path = above(parent, most_above)
else
  local all, is = roots, list and redis.call('EXISTS', ranked .. ROOT) == 1
  if ARGV[5] == 'parent' then
    parent = redis.call('HGET', ids, ARGV[6])
    if not parent then return {'parent'} end
    path = above(parent, most_above)
    local record = redis.call('HGET', records, parent)
    all, is = 0, false
    if record then
      local _, flags
      all, _, flags = struct.unpack('>I4I4B', record)
      is = list and bit.band(flags, bit_of_sort) ~= 0
      if redis.call('ZCARD', kids .. parent) ~= all then return broken end
      if is and redis.call('EXISTS', ranked .. parent) == 0 then return broken end
    end
  end
  if ARGV[7] == '' then
    top = first(parent, limit, is, all, '')
    if top < math.min(limit, all) then return broken end
    more = all > top
  else
    local rank = redis.call('ZRANK', kids .. parent, ARGV[7])
    if not rank then return {'cursor'} end
    if not list then
      local from = newest and all - 1 - rank or rank
      local members = newest and redis.call('ZRANGE', kids .. parent, from + 1, from + limit, 'REV')
        or redis.call('ZRANGE', kids .. parent, from + 1, from + limit)
      for index = 1, #members do pick(members[index], parent) end
      top = #members
      more = all > from + 1 + top
    else
      local from, wanted = 0, limit
      if tonumber(ARGV[8]) == 0 then
        from = rank + 1
      elseif is then
        local key = ranked .. parent
        local start = behind(key, ARGV[7], ARGV[8])
        if not start then return broken end
        local best = redis.call('ZRANGE', key, start, start + limit - 1, 'WITHSCORES')
        for index = 1, #best, 2 do
          pick(string.sub(best[index], 9), parent, struct.pack('>d', -tonumber(best[index + 1])))
        end
        top = #best / 2
        wanted = limit - top
        more = all > start + top
      end
      if wanted > 0 then
        local count, on = unranked(parent, from, wanted, is)
        if count then
          top, more = top + count, on
        elseif top == 0 then
          return {'far', on}
        else
          more = true
        end
      end
    end
  end
end
if not path then return broken end

for index = 1, pathed do shown[index] = '\0\0\0\1' end
local begin, level = 1, 0
while begin <= #posted do
  local stop = #posted
  local found = redis.call('HMGET', records, unpack(posted, begin, stop))
  for index = begin, stop do
    local record = found[index - begin + 1]
    local count = 0
    if record then
      if #record < 9 then return broken end
      counts[index] = string.sub(record, 1, 8)
      if index > pathed and level < depth then
        local wanted = math.min(replies, most - #posted)
        if wanted > 0 then
          local all = struct.unpack('>I4', record)
          local has = list and bit.band(string.byte(record, 9), bit_of_sort) ~= 0
          count = first(posted[index], wanted, has, all, string.sub(record, 10))
          if count < math.min(wanted, all) then return broken end
        end
      end
    else
      counts[index] = NO_COUNTS
    end
    if index > pathed then shown[index] = struct.pack('>I4', count) end
  end
  begin, level = stop + 1, level + 1
end

local stored = {}
if #posted > 0 then
  stored = redis.call('HMGET', nodes, unpack(posted))
  for index = 1, #stored do
    if not stored[index] then return broken end
  end
end
local overlay = ''
if hidden <= tonumber(ARGV[11]) then overlay = redis.call('HVALS', build .. 'o') end
return {'page', head, parent, top, more and 1 or 0, pathed, path, overlay, table.concat(posted),
  table.concat(parents), table.concat(counts), table.concat(shown), table.concat(scores), stored}
