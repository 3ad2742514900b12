-- Begin or resume an erasure: everything here goes, and until the unmark nothing comes back.
-- KEYS  11 record of this request's completion
-- ARGV  4 request   5 spare what was born after this rev; '' for now
-- Reply {'marked', rev, upto} | {'newer'} | {'done'}
if redis.call('EXISTS', KEYS[11]) == 1 then return {'done'} end
local h = thread()
local upto = ARGV[5] == '' and math.max(NOW, h and h.rev or 0) or tonumber(ARGV[5])
if h and tonumber(h.born) > upto then return {'newer'} end
local marked = redis.call('HGET', ERASING, 'rev')
local rev = math.max(NOW, tonumber(marked or '0'), (h and h.rev or 0) + 1)
redis.call('HSET', ERASING, 'request', ARGV[4], 'upto', int(upto), 'rev', int(rev))
vanish()
redis.call('UNLINK', TICKET)
redis.call('HDEL', TRIES, 'flush|' .. MEMBER, 'hydrate|' .. MEMBER)
redis.call('ZADD', INDEX, NOW_MS, MEMBER)
owe()
announce('erasing')
return {'marked', int(rev), int(upto)}
