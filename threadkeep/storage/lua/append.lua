-- Add records behind the log, all of them or none, and save what changed with them. A repeated call finds its ids and
-- adds nothing.
-- KEYS  11 staged records (list)
-- ARGV  4 token   5 lease (ms)   6 rev that the session was told last   7 ids known to be fresh up to this count
--       8 how many   9 bytes   10 their ids (16 bytes each)   11 how many fields of the head follow
--       12… pairs of a field and its value, then the records; none where they were staged
-- Reply {'ok', rev, count} | {'known', rev, count} (an id is taken since) | {'unstaged'} | {'erasing'} | {'absent'} | {'fenced'}
--       {'behind'} (Redis fell back to before what the session was told)
expect('tdnnnntn*')
local many, ids, first_record = tonumber(ARGV[8]), ARGV[10], 12 + tonumber(ARGV[11])
check_pairs(12, first_record - 1)
local inline = #ARGV >= first_record
if many == 0 or #ids ~= 16 * many then refuse('its ids are not as many as its records') end
if inline and #ARGV - first_record + 1 ~= many then refuse('its records are not as many as it says') end
if not inline and not KEYS[11] then refuse('keys are missing') end
local h = thread()
if behind(h, ARGV[6]) then return {'behind'} end
local no = refusal(h, ARGV[4])
if no then return {no} end
local checked = tonumber(ARGV[7])
if checked > h.count then return {'behind'} end
if checked < h.count then
  local fresh = {}
  for at = 1, #ids, 16 do fresh[string.sub(ids, at, at + 15)] = true end
  local since = redis.call('GETRANGE', IDS, 16 * checked, -1)
  for at = 1, #since, 16 do
    if fresh[string.sub(since, at, at + 15)] then return {'known', int(h.rev), int(h.count)} end
  end
end
if inline then
  for first = first_record, #ARGV, 1000 do
    redis.call('RPUSH', LOG, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
else
  if redis.call('LLEN', KEYS[11]) ~= many then return {'unstaged'} end
  for _ = 1, many do redis.call('LMOVE', KEYS[11], LOG, 'LEFT', 'RIGHT') end
end
redis.call('APPEND', IDS, ids)
redis.call('HINCRBY', HEAD, 'log_bytes', ARGV[9])
changed(h, tonumber(ARGV[5]), {'count', int(h.count + many), unpack(ARGV, 12, first_record - 1)})
return {'ok', int(h.rev), int(h.count + many)}
