-- A foreign object was kept aside: continue from its ETag, and step over its revision. Safe to repeat.
-- ARGV  4 my attempt   5 the stored object's ETag   6 its rev
-- Reply 'ok' | 'gone'
local h = thread()
if redis.call('EXISTS', ERASING) == 1 or not h or not lists(h, ARGV[4]) then return 'gone' end
redis.call('HSET', HEAD, 'etag', ARGV[5], 'rev', int(math.max(h.rev, tonumber(ARGV[6]) + 1)))
return 'ok'
