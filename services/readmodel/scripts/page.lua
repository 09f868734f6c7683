#!lua flags=no-writes
-- Picks a page's comments, breadth first. services.core.page.FoldIndex.page is the same in memory.
-- KEYS: 1 head; 2 what all keys of this thread begin with (same slot: the build's keys are named by the head)
-- ARGV: 1 sort; 2 limit; 3 replies; 4 depth; 5 'parent' or 'focus' and 6 its id, 16 bytes, or '' and ''; 7 posting
--       version of the comment to go on behind, or ''; 8 the score that it had; 9 most comments on a page; 10 most
--       ids in a path; 11 most comments in the overlay; 12 nodes of up to so many comments are answered along
-- Gives {'absent'} no view, {'broken', build} a part of it is gone, {'parent'} or {'focus'} no such comment,
-- {'cursor'} nothing to go on behind, {'far', posted} nothing found yet: ask for what is behind that one, which
-- has no score; or {'page', head, parent, roots, more, pathed, above, overlay, posted, counts, shown, scores, nodes}.
-- above: the stored nodes of those above the page's top, nearest first; overlay: authors, or ''; then columns, in
-- bytes, of 4, 8, 2 and 8 (none in the orders of time) for each comment, and the stored nodes. Of more comments than
-- ARGV 12 there are no nodes, and counts and shown end where nothing below is shown any more: whoever asks fetches
-- them by themselves, since a script takes and gives back each value at several times what it costs without one.
local LIST = {best = 'b:', controversial = 'c:', replies = 'r:'}
local BIT = {best = 1, controversial = 2, replies = 4}
local sort, limit, replies, depth = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local most, most_above, along = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[12])
local sub, call = string.sub, redis.call
local newest, list, bit_of_sort = sort == 'newest', LIST[sort], BIT[sort]
local ROOT, NO_SCORE, NO_COUNTS = '\0\0\0\0', string.rep('\0', 8), string.rep('\0', 8)
local LOOK = 2000 -- as many comments of a list are looked at for those without a score

local head = call('HMGET', KEYS[1], 'version', 'hash', 'build', 'meta', 'stale', 'size')
if not head[3] then return {'absent'} end
local broken = {'broken', head[3]}
local build = KEYS[2] .. head[3] .. ':'
local nodes, ids, records, kids = build .. 'n', build .. 'i', build .. 'd', build .. 'k:'
local ranked = list and build .. list

-- See that none of this view's keys is gone; the lists of replies are looked at where they are needed.
local hidden, roots = call('HLEN', build .. 'o'), call('ZCARD', kids .. ROOT)
local size = table.concat({call('HLEN', nodes), call('HLEN', ids), call('HLEN', records), hidden,
  roots, call('ZCARD', build .. 'b:' .. ROOT), call('ZCARD', build .. 'c:' .. ROOT),
  call('ZCARD', build .. 'r:' .. ROOT)}, ' ')
if head[6] ~= size then return broken end

local posted, counts, shown, scores, size_of_page = {}, {}, {}, {}, 0
local function pick(comment, score)
  size_of_page = size_of_page + 1
  posted[size_of_page] = comment
  if list then scores[size_of_page] = score end
end

local function above(comment, count)
  local found = {}
  while comment ~= ROOT and #found < count do
    local node = call('HGET', nodes, comment)
    if not node or #node < 12 then return nil end
    found[#found + 1] = node
    comment = sub(node, 1, 4)
  end
  return found
end

-- The first `wanted` of the replies to `of`, by its record, or, where that is '', by how many there are and whether
-- they have a ranked list. Gives how many were found, and how many of them there should be.
local function first(of, wanted, record, all, is)
  local count, seen, known = 0, nil, #record
  if not list and not newest and known >= 9 + 4 * wanted then
    for at = 10, 6 + 4 * wanted, 4 do pick(sub(record, at, at + 3)) end
    return wanted, wanted
  end
  if known > 0 then
    all = struct.unpack('>I4', record)
    is = list and bit.band(string.byte(record, 9), bit_of_sort) ~= 0
  end
  if wanted > all then wanted = all end
  if wanted == 0 then return 0, 0 end
  if not (list and is) then
    -- The first by time stand behind the ninth byte.
    local begin, stop, step = 10, 6 + 4 * wanted, 4
    if newest then begin, stop, step = 6 + 4 * all, 10 + 4 * (all - wanted), -4 end
    if known >= math.max(begin, stop) + 3 then
      for at = begin, stop, step do pick(sub(record, at, at + 3), NO_SCORE) end
      return wanted, wanted
    end
  end
  if list and is then
    local best = call('ZRANGE', ranked .. of, 0, wanted - 1, 'WITHSCORES')
    count = #best / 2
    if count == 0 then return 0, wanted end
    seen = {}
    for index = 1, #best, 2 do
      local comment = sub(best[index], 9)
      seen[comment] = true
      pick(comment, struct.pack('>d', -tonumber(best[index + 1])))
    end
    if count == wanted then return count, wanted end
  end
  -- No more than `count` of these are in the ranked list too.
  local rest = newest and call('ZRANGE', kids .. of, 0, wanted - 1, 'REV') or call('ZRANGE', kids .. of, 0, wanted - 1)
  for index = 1, #rest do
    if count == wanted then break end
    if not (seen and seen[rest[index]]) then
      pick(rest[index], NO_SCORE)
      count = count + 1
    end
  end
  return count, wanted
end

-- Up to `wanted` replies to `of` without a score, from a place in the order of time on; whether there are more.
-- nil and the last one looked at, where none is among the next ones.
local function unranked(of, from, wanted, is)
  local count, looked, last = 0, 0, nil
  while looked < LOOK do
    local chunk = math.min(looked == 0 and wanted + 1 or math.max(looked, 50), LOOK - looked)
    local members = call('ZRANGE', kids .. of, from + looked, from + looked + chunk - 1, 'WITHSCORES')
    if #members == 0 then return count, false end
    local found
    if is then
      local asked = {}
      for index = 1, #members, 2 do
        asked[#asked + 1] = struct.pack('>I8', tonumber(members[index + 1])) .. members[index]
      end
      found = call('ZMSCORE', ranked .. of, unpack(asked))
    end
    for index = 1, #members, 2 do
      last = members[index]
      if not (found and found[(index + 1) / 2]) then
        if count == wanted then return count, true end
        pick(last, NO_SCORE)
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
  local node = call('HGET', nodes, comment)
  if not node or #node < 12 then return nil end
  local member = sub(node, 5, 12) .. comment
  local now = call('ZSCORE', key, member)
  if now and tonumber(now) == tonumber(score) then return call('ZRANK', key, member) + 1 end
  local low, high = call('ZCOUNT', key, '-inf', '(' .. score), call('ZCOUNT', key, '-inf', score)
  local time, version = struct.unpack('>I8I4', member)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local its_time, its_version = struct.unpack('>I8I4', call('ZRANGE', key, middle, middle)[1])
    if its_time < time or (its_time == time and its_version < version) then low = middle + 1 else high = middle end
  end
  return low
end

local parent, top, more, pathed, path = ROOT, 0, false, 0, {}
if ARGV[5] == 'focus' then
  local comment = call('HGET', ids, ARGV[6])
  if not comment then return {'focus'} end
  local chain = above(comment, most_above + 1)
  if not chain then return broken end
  local line = {comment}
  for index = 1, #chain do line[index + 1] = sub(chain[index], 1, 4) end
  for index = #chain, 1, -1 do
    local score = NO_SCORE
    if list then
      local now = call('ZSCORE', ranked .. line[index + 1], sub(chain[index], 5, 12) .. line[index])
      if now then score = struct.pack('>d', -tonumber(now)) end
    end
    pick(line[index], score)
  end
  top, pathed, parent = 1, #chain - 1, line[#chain + 1]
  path = above(parent, most_above)
else
  local all, is = roots, list and call('EXISTS', ranked .. ROOT) == 1
  if ARGV[5] == 'parent' then
    parent = call('HGET', ids, ARGV[6])
    if not parent then return {'parent'} end
    path = above(parent, most_above)
    local record = call('HGET', records, parent)
    all, is = 0, false
    if record then
      local _, flags
      all, _, flags = struct.unpack('>I4I4B', record)
      is = list and bit.band(flags, bit_of_sort) ~= 0
      if call('ZCARD', kids .. parent) ~= all then return broken end
      if is and call('EXISTS', ranked .. parent) == 0 then return broken end
    end
  end
  if ARGV[7] == '' then
    local there
    top, there = first(parent, limit, '', all, is)
    if top < there then return broken end
    more = all > top
  else
    local rank = call('ZRANK', kids .. parent, ARGV[7])
    if not rank then return {'cursor'} end
    if not list then
      local from = newest and all - 1 - rank or rank
      local members = newest and call('ZRANGE', kids .. parent, from + 1, from + limit, 'REV')
        or call('ZRANGE', kids .. parent, from + 1, from + limit)
      for index = 1, #members do pick(members[index]) end
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
        local best = call('ZRANGE', key, start, start + limit - 1, 'WITHSCORES')
        for index = 1, #best, 2 do
          pick(sub(best[index], 9), struct.pack('>d', -tonumber(best[index + 1])))
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

local two_bytes = {}
local function number(count)
  local known = two_bytes[count]
  if not known then
    known = struct.pack('>I2', count)
    two_bytes[count] = known
  end
  return known
end
for index = 1, pathed do shown[index] = number(1) end
-- Where below a comment lie as many as it has replies, none of these has any, and need not be asked for.
local childless = {}
local begin, level = 1, 0
while begin <= size_of_page do
  local stop, filling = size_of_page, level < depth and replies > 0 and size_of_page < most
  local asked = {}
  for index = begin, stop do
    if not childless[index] then asked[#asked + 1] = posted[index] end
  end
  if #asked == 0 then
    counts[begin] = string.rep(NO_COUNTS, stop - begin + 1)
    break
  end
  if not filling and size_of_page > along then break end
  local found, at = call('HMGET', records, unpack(asked)), 0
  for index = begin, stop do
    local record = false
    if not childless[index] then
      at = at + 1
      record = found[at]
    end
    local count = 0
    if record then
      if #record < 9 then return broken end
      counts[index] = sub(record, 1, 8)
      if filling and index > pathed then
        local wanted = math.min(replies, most - size_of_page)
        if wanted > 0 then
          local there
          count, there = first(posted[index], wanted, record)
          if count < there then return broken end
          if sub(record, 1, 4) == sub(record, 5, 8) then
            for child = size_of_page - count + 1, size_of_page do childless[child] = true end
          end
        end
      end
    else
      counts[index] = NO_COUNTS
    end
    if index > pathed then shown[index] = number(count) end
  end
  begin, level = stop + 1, level + 1
end

local stored = ''
if size_of_page <= along then
  stored = {}
  if size_of_page > 0 then stored = call('HMGET', nodes, unpack(posted)) end
  for index = 1, size_of_page do
    if not stored[index] then return broken end
  end
end
local overlay = ''
if hidden <= tonumber(ARGV[11]) then overlay = call('HVALS', build .. 'o') end
return {'page', head, parent, top, more and 1 or 0, pathed, path, overlay, table.concat(posted), table.concat(counts),
  table.concat(shown), table.concat(scores), stored}
