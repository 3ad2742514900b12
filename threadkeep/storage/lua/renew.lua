-- Keep a lease alive. Safe to repeat.
-- ARGV  4 token   5 lease (ms)
-- Reply 'ok' | 'erasing' | 'absent' | 'fenced'
expect('td')
local no = refusal(thread(), ARGV[4])
if no then return no end
redis.call('HSET', HEAD, 'lease_until', NOW_MS + tonumber(ARGV[5]))
stay()
return 'ok'
