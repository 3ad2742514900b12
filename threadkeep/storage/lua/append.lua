-- Add records behind the log, all of them or none, and save what changed with them. A repeated call finds its ids and
-- adds nothing.
-- KEYS  11 staged records (list)
-- ARGV  4 token   5 lease (ms)   6 ids known to be fresh up to this count   7 how many   8 bytes   9 their ids (16 bytes each)
--       10 how many fields of the head follow   11… pairs of a field and its value, then the records; none where they were staged
-- Reply {'ok', rev, count} | {'known', rev, count} (an id is taken since) | {'unstaged'} | {'erasing'} | {'absent'} | {'fenced'}
--       {'behind'} (messages that the session knows of are gone: Redis fell back)
local h = thread()
local no = refusal(h, ARGV[4])
if no then return {no} end
local checked, many, ids = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[9]
if checked > h.count then return {'behind'} end
if checked < h.count then
  local fresh = {}
  for at = 1, #ids, 16 do fresh[string.sub(ids, at, at + 15)] = true end
  local since = redis.call('GETRANGE', IDS, 16 * checked, -1)
  for at = 1, #since, 16 do
    if fresh[string.sub(since, at, at + 15)] then return {'known', int(h.rev), int(h.count)} end
  end
end
local first_record = 11 + tonumber(ARGV[10])
if #ARGV >= first_record then
  for first = first_record, #ARGV, 1000 do
    redis.call('RPUSH', LOG, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
else
  if redis.call('LLEN', KEYS[11]) ~= many then return {'unstaged'} end
  for _ = 1, many do redis.call('LMOVE', KEYS[11], LOG, 'LEFT', 'RIGHT') end
end
redis.call('APPEND', IDS, ids)
redis.call('HINCRBY', HEAD, 'log_bytes', ARGV[8])
changed(h, tonumber(ARGV[5]), {'count', int(h.count + many), unpack(ARGV, 11, first_record - 1)})
return {'ok', int(h.rev), int(h.count + many)}
