-- A foreign object was kept aside: continue from its ETag, and step over its revision. Safe to repeat.
-- ARGV  4 my attempt   5 the stored object's ETag   6 its rev   7 '1' if it is a tombstone: the thread was born after it
-- Reply 'ok' | 'gone'
expect('ttnt')
local h = thread()
if redis.call('EXISTS', ERASING) == 1 or not h or not lists(h, ARGV[4]) then return 'gone' end
local next_rev = tonumber(ARGV[6]) + 1
redis.call('HSET', HEAD, 'etag', ARGV[5], 'rev', math.max(h.rev, next_rev))
if ARGV[7] == '1' then redis.call('HSET', HEAD, 'born', math.max(tonumber(h.born), next_rev)) end
return 'ok'
