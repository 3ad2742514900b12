-- The archive of a thread is damaged or gone, and this copy is whole: have it archived anew. It is dirty from now on, so
-- no part of it may expire, and the next flush replaces the object that was found. Safe to repeat: the new gen tells a
-- call its own success.
-- ARGV  4 gen as read   5 rev as read   6 new gen   7 the damaged object's ETag; '' if there is none
-- Reply {'ok', rev} | {'moved'} (the thread changed since it was read) | {'absent'} | {'erasing'}
expect('tttt')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if not h then return {'absent'} end
if h.gen == ARGV[6] then return {'ok', h.rev} end
if h.gen ~= ARGV[4] or int(h.rev) ~= ARGV[5] then return {'moved'} end
h.rev = math.max(h.rev + 1, NOW)
redis.call('HDEL', HEAD, 'base_etag')
redis.call('HSET', HEAD, 'rev', h.rev, 'gen', ARGV[6], 'etag', ARGV[7])
if not h.dirty then redis.call('HSET', HEAD, 'dirty_since', NOW_MS) end
stay()
return {'ok', h.rev}
