-- Bring a copy in, whole and with its expiry, if its ticket still stands.
-- KEYS  11 staged base   12 staged log   13 staged ids; none where the copy is small and comes along
-- ARGV  4 ticket   5 gen   6 pieces   7 messages   8 rev   9 archived rev (0: not archived in this format)
--       10 the base's one piece   11 the ids; both '' where they are staged   12… pairs for the head
-- Reply {'restored', stamp, expires (ms, 0: never)} | {'present'} | {'refused'} | {'unstaged'} | {'erasing'}
expect('ttnnnnttp')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if h then
  if h.gen == ARGV[5] then return {'restored', NOW, rest(h)} end
  return {'present'}
end
local found = redis.call('HMGET', TICKET, 'mark', 'keep_until')
if found[1] ~= ARGV[4] then return {'refused'} end
if ARGV[9] ~= '0' and ARGV[9] ~= ARGV[8] then refuse('its archived rev is another') end
local pieces, count = tonumber(ARGV[6]), tonumber(ARGV[7])
local staged = KEYS[13] ~= nil
if staged then
  if redis.call('LLEN', KEYS[11]) ~= pieces or redis.call('STRLEN', KEYS[13]) ~= ID_BYTES * count then return {'unstaged'} end
else
  if pieces ~= (ARGV[10] == '' and 0 or 1) or #ARGV[11] ~= ID_BYTES * count then refuse('its parts are not as many as it says') end
  redis.call('HSET', TICKET, 'mark', ARGV[4])  -- where memory is full, this is refused before anything is changed
end
vanish()
redis.call('UNLINK', TICKET)
if pieces > 0 then
  if staged then redis.call('RENAME', KEYS[11], BASE) else redis.call('RPUSH', BASE, ARGV[10]) end
end
if count > 0 then
  if staged then redis.call('RENAME', KEYS[13], IDS) else redis.call('SET', IDS, ARGV[11]) end
end
redis.call('HSET', HEAD, 'rev', ARGV[8], 'archived', ARGV[9], 'gen', ARGV[5], 'pieces', pieces, 'base_count', count,
  'count', count, 'active', NOW_MS, 'keep_until', found[2] or '0', unpack(ARGV, 12))
if ARGV[8] ~= ARGV[9] then redis.call('HSET', HEAD, 'dirty_since', NOW_MS) end
redis.call('HDEL', TRIES, 'hydrate|' .. MEMBER)
owe()
local expires = rest({dirty = ARGV[8] ~= ARGV[9], leased = false, keep_until = tonumber(found[2] or '0')})
announce('restored')
return {'restored', NOW, expires}
