-- A flush's first act: clear the marker, so that later requests queue their own; list the attempt; say what is here.
-- A mode that was asked for stays wanted until a flush succeeds, so that a retry keeps it. What is not whole will be
-- asked to flush again once it is mended.
-- ARGV  4 attempt   5 mode   6 deaths allowed   7 run; '' if it has begun before   8 a run's time limit (ms)
--       9 bytes that a part may have to be told here
-- Reply {'go', mode, {head…}, {piece…} or nil, {record…} or nil} | {'clean', mode, {head…}} | {'absent'}
--     | {'set_aside', deaths} | {'erasing'}
expect('hmntnn')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if not h then
  redis.call('HDEL', HEAD, 'flush_token', 'flush_mode', 'flush_at')
  return {'absent'}
end
local mode = ARGV[5]
local asked = redis.call('HMGET', HEAD, 'flush_mode', 'wanted')
for i = 1, 2 do
  if asked[i] and STRENGTH[asked[i]] > STRENGTH[mode] then mode = asked[i] end
end
redis.call('HDEL', HEAD, 'flush_token', 'flush_mode', 'flush_at')
if not h.dirty then return {'clean', mode, redis.call('HGETALL', HEAD)} end
redis.call('HSET', HEAD, 'wanted', mode)
if ARGV[7] ~= '' then
  local deaths = begin_run('flush|', ARGV[7], tonumber(ARGV[8]))
  if deaths >= tonumber(ARGV[6]) then return {'set_aside', deaths} end
end
if not lists(h, ARGV[4]) then
  local kept = {int(h.rev) .. ':' .. ARGV[4]}
  for found in string.gmatch(h.attempts, '%S+') do
    if #kept < 32 then table.insert(kept, found) end
  end
  redis.call('HSET', HEAD, 'attempts', table.concat(kept, ' '))
end
return {'go', mode, redis.call('HGETALL', HEAD), small_parts(h, tonumber(ARGV[9]), false)}
