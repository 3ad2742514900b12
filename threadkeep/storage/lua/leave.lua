-- A thread that the archive holds already may go, if it still is as it was when looked at.
-- ARGV  4 gen   5 rev   6 mode
-- Reply {'evicted'|'lingers'|'kept', stamp, expires (ms)} | {'gone'}
expect('ttm')
if redis.call('EXISTS', ERASING) == 1 then return {'gone'} end
local h = thread()
if not h then return {'gone'} end
if h.gen ~= ARGV[4] or int(h.rev) ~= ARGV[5] then return {'kept', NOW, '0'} end
announce('flushed')
return leave(h, ARGV[6])
