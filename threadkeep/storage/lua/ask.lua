-- Ask for a hydrate: create or join the ticket, and mark that a message is queued. A copy restored under it is kept.
-- ARGV  4 fresh ticket   5 request token   6 ticket's life (ms)   7 ask again after (ms)   8 keep the copy for (ms)
-- Reply {'present'} | {'enqueue', ticket} | {'asked', ticket} | {'absent', ticket} (told already)
--     | {'lost', ticket, what} (once: whoever asks next gets what is left) | {'erasing'}
expect('ttdnn')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local keep_until = NOW_MS + tonumber(ARGV[8])
local h = thread()
if h then
  redis.call('HSET', HEAD, 'keep_until', math.max(h.keep_until, keep_until))
  h.keep_until = math.max(h.keep_until, keep_until)
  rest(h)
  return {'present'}
end
local found = redis.call('HMGET', TICKET, 'mark', 'verdict', 'asked_at', 'keep_until', 'heard', 'reason')
if found[2] == 'absent' then return {'absent', found[1]} end
if found[2] == 'lost' and not found[5] then
  redis.call('HSET', TICKET, 'heard', '1')
  redis.call('PEXPIRE', TICKET, ARGV[6])
  return {'lost', found[1], found[6]}
end
local mark = found[1] or ARGV[4]
redis.call('HSET', TICKET, 'mark', mark, 'keep_until', math.max(keep_until, tonumber(found[4] or '0')))
redis.call('HDEL', TICKET, 'verdict', 'reason', 'heard')
redis.call('PEXPIRE', TICKET, ARGV[6])
if found[3] and NOW_MS - tonumber(found[3]) < tonumber(ARGV[7]) and not found[2] then return {'asked', mark} end
redis.call('HSET', TICKET, 'asked', ARGV[5], 'asked_at', NOW_MS)
return {'enqueue', mark}
