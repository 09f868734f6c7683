#!lua flags=allow-oom
-- Takes a build out of use, for good: without its nodes and ids no switch to it succeeds. Its other keys may
-- then be unlinked at leisure.
-- KEYS: 1 head; 2 nodes; 3 ids; 4 overlay; 5 the build's own :h
-- ARGV: 1 build; 2 'drop' to retire it even if it is the thread's view
-- Gives 0 where it is the thread's view and stays, else 1.
if redis.call('HGET', KEYS[1], 'build') == ARGV[1] then
  if ARGV[2] ~= 'drop' then return 0 end
  redis.call('DEL', KEYS[1])
end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
