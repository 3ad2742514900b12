-- What is here at one moment: the head, and of its parts those that are small.
-- ARGV  4 bytes that a part may have to be told here   5 '1' if the ids are wanted
-- Reply {'here', {head…}, {piece…} or nil, {record…} or nil, ids or nil} | {'absent'}
expect('nt')
if redis.call('EXISTS', ERASING) == 1 then return {'absent'} end
local h = thread()
if not h then return {'absent'} end
return {'here', redis.call('HGETALL', HEAD), small_parts(h, tonumber(ARGV[4]), ARGV[5] == '1')}
