-- Cut the log; the base stays. Safe to repeat: the new gen tells a call its own success.
-- ARGV  4 token   5 lease (ms)   6 gen as read   7 new gen   8 messages to keep   9 bytes of the records that go
--       10 rev that the session was told last
-- Reply {'ok', rev, count} | {'moved'} | {'erasing'} | {'absent'} | {'fenced'} | {'behind'} (Redis fell back to before that rev)
expect('tdttnnn')
local h = thread()
if behind(h, ARGV[10]) then return {'behind'} end
local no = refusal(h, ARGV[4])
if no then return {no} end
if h.gen == ARGV[7] then return {'ok', h.rev, h.count} end
local keep = tonumber(ARGV[8])
if h.gen ~= ARGV[6] or keep < h.base_count or keep > h.count then return {'moved'} end
if keep == h.base_count then
  redis.call('UNLINK', LOG)
else
  redis.call('LTRIM', LOG, 0, keep - h.base_count - 1)
end
if keep == 0 then
  redis.call('UNLINK', IDS)
else
  redis.call('SET', IDS, redis.call('GETRANGE', IDS, 0, ID_BYTES * keep - 1))
end
redis.call('HINCRBY', HEAD, 'log_bytes', 0 - tonumber(ARGV[9]))
changed(h, tonumber(ARGV[5]), {'count', keep, 'gen', ARGV[7]})
return {'ok', h.rev, keep}
