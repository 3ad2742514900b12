-- The sweep looks after one member of the index: a lease that ended is taken away, what is clean may fade, what is gone leaves.
-- Reply {'hot', head…} | {'fading', head…} | {'dropped'} | {'erasing', request, upto}
--     | {'broken'} (something is missing that the archive may not hold)
expect('')
local erasing = redis.call('HMGET', ERASING, 'request', 'upto')
if erasing[1] then return {'erasing', erasing[1], erasing[2]} end
local h = thread()
if not h then
  local left = redis.call('HMGET', HEAD, 'rev', 'archived')
  local hot = redis.call('ZSCORE', INDEX, MEMBER)
  if left[1] ~= left[2] or (hot and not left[1]) then return {'broken'} end
  vanish()
  return {'dropped'}
end
if not h.leased and h.lease ~= '' then redis.call('HDEL', HEAD, 'lease', 'lease_until') end
if h.dirty or h.leased then return {'hot', unpack(redis.call('HGETALL', HEAD))} end
fade(h, LINGER)
return {'fading', unpack(redis.call('HGETALL', HEAD))}
