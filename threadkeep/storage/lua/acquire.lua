-- Take the thread's lease, if it is here and nobody else holds it. Safe to repeat with the same token.
-- ARGV  4 token   5 lease (ms)
-- Reply {'ok', head…} | {'busy', ms left} | {'absent'} | {'erasing'}
expect('Td')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if not h then return {'absent'} end
if h.leased and h.lease ~= ARGV[4] then return {'busy', h.lease_until - NOW_MS} end
redis.call('HSET', HEAD, 'lease', ARGV[4], 'lease_until', NOW_MS + tonumber(ARGV[5]))
stay()
return {'ok', unpack(redis.call('HGETALL', HEAD))}
