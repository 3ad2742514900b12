-- A worker starts to bring the thread back: present, or the ticket under which it may be restored.
-- ARGV  4 fresh ticket   5 ticket's life (ms)   6 unfinished runs allowed   7 fresh epoch
-- Reply {'present', epoch, head…} | {'go', epoch, ticket} | {'set_aside', runs} | {'erasing'}
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
redis.call('SET', EPOCH, ARGV[7], 'NX')
local epoch = redis.call('GET', EPOCH)
local h = thread()
if h then
  redis.call('HDEL', TRIES, 'hydrate|' .. MEMBER)
  rest(h)
  announce('present')
  return {'present', epoch, unpack(redis.call('HGETALL', HEAD))}
end
local runs = try('hydrate|')
if runs > tonumber(ARGV[6]) then return {'set_aside', runs} end
local found = redis.call('HMGET', TICKET, 'mark', 'verdict')
local mark = found[1]
if not mark or found[2] then
  mark = ARGV[4]
  redis.call('HSET', TICKET, 'mark', mark)
  redis.call('HDEL', TICKET, 'verdict', 'reason')
end
redis.call('PEXPIRE', TICKET, ARGV[5])
return {'go', epoch, mark}
