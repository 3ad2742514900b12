-- Somebody was told what was lost: others who wait may hear it too, whoever asks next gets what is left. Safe to repeat.
-- ARGV  4 ticket   5 life (ms)
-- Reply 1 | 0
expect('td')
local told = redis.call('HMGET', TICKET, 'mark', 'verdict', 'heard')
if told[1] ~= ARGV[4] or told[2] ~= 'lost' or told[3] then return 0 end
redis.call('HSET', TICKET, 'heard', '1')
return redis.call('PEXPIRE', TICKET, ARGV[5])
