-- Begin or resume an erasure: everything here goes, and until the unmark nothing comes back.
-- KEYS  10 record of this request's completion
-- ARGV  4 request   5 spare what was born after this rev
-- Reply {'marked', rev} | {'newer'} | {'done'}
if redis.call('EXISTS', KEYS[10]) == 1 then return {'done'} end
local h = thread()
if h and tonumber(h.born) > tonumber(ARGV[5]) then return {'newer'} end
local marked = redis.call('HGET', ERASING, 'rev')
local rev = math.max(NOW, tonumber(marked or '0'), (h and h.rev or 0) + 1)
redis.call('HSET', ERASING, 'request', ARGV[4], 'upto', ARGV[5], 'rev', int(rev))
vanish()
redis.call('UNLINK', TICKET)
redis.call('HDEL', TRIES, 'flush|' .. MEMBER, 'hydrate|' .. MEMBER)
redis.call('ZADD', INDEX, NOW_MS, MEMBER)
announce('erasing')
return {'marked', int(rev)}
