-- Note what an erasure is about to remove, or has removed, if its mark is still there: a repeat goes on counting from it.
-- ARGV  4 the mark, as `erase_mark` set it   5 what   6 how many (the greater number stays)
-- Reply 'ok' | 'lost'
expect('ttn')
local found = redis.call('HMGET', ERASING, 'mark', ARGV[5])
if found[1] ~= ARGV[4] then return 'lost' end
redis.call('HSET', ERASING, ARGV[5], math.max(tonumber(found[2] or '0'), tonumber(ARGV[6])))
return 'ok'
