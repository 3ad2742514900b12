-- What is here, without changing anything.
-- Reply {'here', head…} | {'absent', ticket or '', verdict or '', reason or '', rev of a tombstone or '0',
--     remains…} | {'erasing'}
expect('')
if redis.call('EXISTS', ERASING) == 1 then return {'erasing'} end
if thread() then return {'here', unpack(redis.call('HGETALL', HEAD))} end
local told = redis.call('HMGET', TICKET, 'mark', 'verdict', 'reason', 'floor')
return {'absent', told[1] or '', told[2] or '', told[3] or '', told[4] or '0', remains()}
