-- Put a staged base and staged ids in the place of those that are damaged or missing; head and log stay as they are.
-- KEYS  11 staged base   12 staged log   13 staged ids
-- ARGV  4 ticket   5 new gen   6 gen as found   7 rev as found   8 pieces   9… pairs for the head that describe the base
-- Reply {'mended'} | {'present'} | {'refused'} (the ticket is gone) | {'moved'} (it is not as it was found) | {'unstaged'}
--     | {'erasing'}
expect('ttttnp', 3)
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if h then return {h.gen == ARGV[5] and 'mended' or 'present'} end
local told = redis.call('HMGET', TICKET, 'mark', 'keep_until')
if told[1] ~= ARGV[4] then return {'refused'} end
local left = redis.call('HMGET', HEAD, 'gen', 'rev', 'count', 'base_count', 'keep_until')
if left[1] ~= ARGV[6] or left[2] ~= ARGV[7] then return {'moved'} end
local count, pieces = tonumber(left[3]), tonumber(ARGV[8])
if redis.call('LLEN', LOG) ~= count - tonumber(left[4]) then return {'moved'} end
if redis.call('LLEN', KEYS[11]) ~= pieces or redis.call('STRLEN', KEYS[13]) ~= ID_BYTES * count then return {'unstaged'} end
redis.call('UNLINK', BASE, IDS, TICKET)
if pieces > 0 then redis.call('RENAME', KEYS[11], BASE) end
if count > 0 then redis.call('RENAME', KEYS[13], IDS) end
local keep_until = math.max(tonumber(left[5] or '0'), tonumber(told[2] or '0'))
redis.call('HDEL', HEAD, 'base_etag')
redis.call('HSET', HEAD, 'gen', ARGV[5], 'pieces', pieces, 'keep_until', keep_until, unpack(ARGV, 9))
redis.call('HDEL', TRIES, 'hydrate|' .. MEMBER)
rest(thread())
announce('restored')
return {'mended'}
