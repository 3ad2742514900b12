-- Make a thread that is not here, empty or from staged parts, leased to its maker. Safe to repeat with the same token.
-- It is born after the erasure of whatever had its id before, even if the clock stepped back meanwhile.
-- KEYS  11 staged base   12 staged log   13 staged ids
-- ARGV  4 token   5 lease (ms)   6 ticket under which 'absent' was told; '' if the id is fresh by chance   7 gen
--       8 pieces   9 messages in the base   10 messages in all   11… pairs of a head's field and its value
-- Reply {'ok', head…} | {'exists'} | {'stale'} (the ticket is gone: ask again) | {'unstaged'} | {'erasing'}
expect('Tdttnnnp', 3)
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if h and h.gen == ARGV[7] then return {'ok', unpack(redis.call('HGETALL', HEAD))} end
if h then return {'exists'} end
local floor = 0
if ARGV[6] ~= '' then
  local told = redis.call('HMGET', TICKET, 'mark', 'verdict', 'floor')
  if told[1] ~= ARGV[6] or told[2] ~= 'absent' then return {'stale'} end
  floor = tonumber(told[3] or '0')
end
local pieces, base_count, count = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
if redis.call('LLEN', KEYS[11]) ~= pieces or redis.call('LLEN', KEYS[12]) ~= count - base_count
  or redis.call('STRLEN', KEYS[13]) ~= ID_BYTES * count then
  return {'unstaged'}
end
vanish()
redis.call('UNLINK', TICKET)
for i, key in ipairs({BASE, LOG, IDS}) do
  if redis.call('EXISTS', KEYS[10 + i]) == 1 then redis.call('RENAME', KEYS[10 + i], key) end
end
local born = math.max(NOW, floor + 1)
redis.call('HSET', HEAD, 'rev', born, 'archived', 0, 'born', born, 'gen', ARGV[7], 'active', NOW_MS,
  'dirty_since', NOW_MS, 'pieces', pieces, 'base_count', base_count, 'count', count,
  'lease', ARGV[4], 'lease_until', NOW_MS + tonumber(ARGV[5]), unpack(ARGV, 11))
stay()
return {'ok', unpack(redis.call('HGETALL', HEAD))}
