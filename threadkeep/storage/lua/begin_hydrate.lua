-- A worker starts to bring the thread back: present, or the ticket under which it may be restored.
-- ARGV  4 fresh ticket   5 ticket's life (ms)   6 deaths allowed   7 fresh epoch   8 run; '' if it has begun before
--       9 a run's time limit (ms)
-- Reply {'present', epoch, head…} | {'go', epoch, ticket, remains…} | {'untold'} (somebody must hear first what was lost)
--     | {'set_aside', deaths, ticket or ''} | {'erasing'}
expect('tdnttn')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local epoch = redis.call('GET', EPOCH)
if not epoch then
  epoch = ARGV[7]
  redis.call('SET', EPOCH, epoch)
end
local h = thread()
if h then
  redis.call('HDEL', TRIES, 'hydrate|' .. MEMBER)
  rest(h)
  announce('present')
  return {'present', epoch, unpack(redis.call('HGETALL', HEAD))}
end
local found = redis.call('HMGET', TICKET, 'mark', 'verdict', 'heard')
if found[2] == 'lost' and not found[3] then return {'untold'} end
if ARGV[8] ~= '' then
  local deaths = begin_run('hydrate|', ARGV[8], tonumber(ARGV[9]))
  if deaths >= tonumber(ARGV[6]) then return {'set_aside', deaths, redis.call('HGET', TICKET, 'mark') or ''} end
end
local mark = found[1]
if not mark or found[2] then
  mark = ARGV[4]
  redis.call('HSET', TICKET, 'mark', mark)
  redis.call('HDEL', TICKET, 'verdict', 'reason', 'heard')
end
redis.call('PEXPIRE', TICKET, ARGV[5])
return {'go', epoch, mark, remains()}
