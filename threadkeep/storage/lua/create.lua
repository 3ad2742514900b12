-- Make a thread that is not here, empty or from staged parts, leased to its maker. Safe to repeat with the same token.
-- KEYS  11 staged base   12 staged log   13 staged ids
-- ARGV  4 token   5 lease (ms)   6 ticket under which 'absent' was told; '' if the id is fresh by chance   7 gen
--       8 pieces   9 messages in the base   10 messages in all   11… pairs of a head's field and its value
-- Reply {'ok', head…} | {'exists'} | {'stale'} (the ticket is gone: ask again) | {'unstaged'} | {'erasing'}
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if h and h.gen == ARGV[7] then return {'ok', unpack(redis.call('HGETALL', HEAD))} end
if h then return {'exists'} end
if ARGV[6] ~= '' then
  local told = redis.call('HMGET', TICKET, 'mark', 'verdict')
  if told[1] ~= ARGV[6] or told[2] ~= 'absent' then return {'stale'} end
end
local pieces, base_count, count = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
if redis.call('LLEN', KEYS[11]) ~= pieces or redis.call('LLEN', KEYS[12]) ~= count - base_count
  or redis.call('STRLEN', KEYS[13]) ~= 16 * count then
  return {'unstaged'}
end
vanish()
redis.call('UNLINK', TICKET)
for i, key in ipairs({BASE, LOG, IDS}) do
  if redis.call('EXISTS', KEYS[10 + i]) == 1 then redis.call('RENAME', KEYS[10 + i], key) end
end
redis.call('HSET', HEAD, 'rev', int(NOW), 'archived', 0, 'born', int(NOW), 'gen', ARGV[7], 'active', int(NOW_MS),
  'dirty_since', int(NOW_MS), 'pieces', pieces, 'base_count', base_count, 'count', count,
  'lease', ARGV[4], 'lease_until', int(NOW_MS + tonumber(ARGV[5])), unpack(ARGV, 11))
stay()
return {'ok', unpack(redis.call('HGETALL', HEAD))}
