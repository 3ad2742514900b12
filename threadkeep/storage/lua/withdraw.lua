-- Take a request's marker back, because its message could not be published. Compares before it deletes.
-- ARGV  4 'flush' or 'hydrate'   5 token
-- Reply 1 | 0
expect('tt')
if ARGV[4] == 'flush' then
  if redis.call('HGET', HEAD, 'flush_token') ~= ARGV[5] then return 0 end
  return math.min(1, redis.call('HDEL', HEAD, 'flush_token', 'flush_mode', 'flush_at'))
end
if redis.call('HGET', TICKET, 'asked') ~= ARGV[5] then return 0 end
return math.min(1, redis.call('HDEL', TICKET, 'asked', 'asked_at'))
