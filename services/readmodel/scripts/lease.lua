#!lua flags=allow-oom
-- Renews a lease, or gives it up, if it is still this holder's.
-- KEYS: 1 lease
-- ARGV: 1 the holder's token; 2 milliseconds from now on, or '' to give it up
-- Gives 1 where it was this holder's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
