-- Put a staged base, log and ids in the place of the thread's own. Safe to repeat: the new gen tells a call its own success.
-- KEYS  11 staged base   12 staged log   13 staged ids
-- ARGV  4 token   5 lease (ms)   6 gen as read   7 new gen   8 pieces   9 messages in the base   10 messages in all
--       11 '1' if the thread starts anew: it is born now   12 rev that the session was told last
--       13… pairs of a head's field and its value
-- Reply {'ok', rev, count} | {'moved'} | {'unstaged'} | {'erasing'} | {'absent'} | {'fenced'}
--     | {'behind'} (Redis fell back to before that rev)
expect('tdttnnntnp', 3)
local h = thread()
if behind(h, ARGV[12]) then return {'behind'} end
local no = refusal(h, ARGV[4])
if no then return {no} end
if h.gen == ARGV[7] then return {'ok', h.rev, h.count} end
if h.gen ~= ARGV[6] then return {'moved'} end
local pieces, base_count, count = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
if redis.call('LLEN', KEYS[11]) ~= pieces or redis.call('LLEN', KEYS[12]) ~= count - base_count
  or redis.call('STRLEN', KEYS[13]) ~= ID_BYTES * count then
  return {'unstaged'}
end
redis.call('UNLINK', BASE, LOG, IDS)
for i, key in ipairs({BASE, LOG, IDS}) do
  if redis.call('EXISTS', KEYS[10 + i]) == 1 then redis.call('RENAME', KEYS[10 + i], key) end
end
redis.call('HDEL', HEAD, 'base_etag')
redis.call('HSET', HEAD, 'pieces', pieces, 'base_count', base_count, 'count', count, 'gen', ARGV[7])
changed(h, tonumber(ARGV[5]), {unpack(ARGV, 13)})
stay()  -- what was staged would expire
if ARGV[11] == '1' then redis.call('HSET', HEAD, 'born', h.rev) end
return {'ok', h.rev, count}
