-- Begin or resume an erasure: everything here goes, and until the unmark nothing comes back.
-- A mark set by the request itself stands: while it does, nothing is created, so all there is is older than the request.
-- KEYS  11 record of this request's completion
-- ARGV  4 request   5 spare what was born after this rev; '' where the request is made now
-- Reply {'marked', fields of the mark…} | {'under_way', fields of another request's mark…} | {'newer'} | {'done'}
expect('tN', 1)
if redis.call('EXISTS', KEYS[11]) == 1 then return {'done'} end
local mark = redis.call('HMGET', ERASING, 'request', 'standing', 'rev')
local asked_now = ARGV[5] == ''
if mark[1] and mark[1] ~= ARGV[4] and (mark[2] or not asked_now) then
  return {'under_way', unpack(redis.call('HGETALL', ERASING))}
end
local h = thread()
local left = redis.call('HMGET', HEAD, 'born', 'rev')  -- of a thread that is half here, too
local born, hot_rev = tonumber(left[1] or '0'), tonumber(left[2] or '0')
if mark[1] ~= ARGV[4] then
  local upto = asked_now and math.max(NOW, hot_rev) or tonumber(ARGV[5])
  if born > upto then return {'newer'} end
  local rev = math.max(NOW, upto + 1, tonumber(mark[3] or '0'), hot_rev + 1)
  redis.call('HSET', ERASING, 'request', ARGV[4], 'mark', ARGV[4] .. ' ' .. int(NOW), 'upto', upto, 'rev', rev)
  if asked_now then redis.call('HSET', ERASING, 'standing', '1') end
end
if h then redis.call('HSET', ERASING, 'hot_rev', h.rev, 'hot_count', h.count) end
vanish()
redis.call('UNLINK', TICKET)
redis.call('HDEL', TRIES, 'flush|' .. MEMBER, 'hydrate|' .. MEMBER)
redis.call('ZADD', INDEX, NOW_MS, MEMBER)
owe()
announce('erasing')
return {'marked', unpack(redis.call('HGETALL', ERASING))}
