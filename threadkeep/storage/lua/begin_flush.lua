-- A flush's first act: clear the marker, so that later requests queue their own; list the attempt; say what is here.
-- ARGV  4 attempt   5 mode   6 unfinished runs allowed   7 '1' if this run has begun before
-- Reply {'go', mode, head…} | {'clean', mode, head…} | {'absent'} | {'set_aside', runs} | {'erasing'}
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
local h = thread()
if not h then return {'absent'} end
local mode = redis.call('HGET', HEAD, 'flush_mode')
if not mode or STRENGTH[ARGV[5]] > STRENGTH[mode] then mode = ARGV[5] end
redis.call('HDEL', HEAD, 'flush_token', 'flush_mode', 'flush_at')
if not h.dirty then return {'clean', mode, unpack(redis.call('HGETALL', HEAD))} end
if ARGV[7] ~= '1' then
  local runs = try('flush|')
  if runs > tonumber(ARGV[6]) then return {'set_aside', runs} end
end
if not lists(h, ARGV[4]) then
  local kept = {int(h.rev) .. ':' .. ARGV[4]}
  for found in string.gmatch(h.attempts, '%S+') do
    if #kept < 32 then table.insert(kept, found) end
  end
  redis.call('HSET', HEAD, 'attempts', table.concat(kept, ' '))
end
return {'go', mode, unpack(redis.call('HGETALL', HEAD))}
