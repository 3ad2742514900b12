-- Add records behind the log, all of them or none, and save what changed with them. A repeated call finds its ids and
-- adds nothing.
-- KEYS  11 staged records (list)
-- ARGV  4 token   5 lease (ms)   6 rev that the session was told last   7 ids known to be fresh up to this count
--       8 how many   9 bytes   10 their ids (ID_BYTES each)   11 how many fields of the head follow
--       12… pairs of a field and its value, then the records; none where they were staged
-- Reply {'ok', rev, count} | {'known', rev, count} (an id is taken since) | {'unstaged'} | {'erasing'} | {'absent'} | {'fenced'}
--       {'behind'} (Redis fell back to before what the session was told)
expect('tdnnnntn*')
local many, ids, first_record = tonumber(ARGV[8]), ARGV[10], 12 + tonumber(ARGV[11])
check_pairs(12, first_record - 1)
local inline = #ARGV >= first_record
if many == 0 or #ids ~= ID_BYTES * many then refuse('its ids are not as many as its records') end
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
  for at = 1, #ids, ID_BYTES do fresh[string.sub(ids, at, at + ID_BYTES - 1)] = true end
  local since = redis.call('GETRANGE', IDS, ID_BYTES * checked, -1)
  for at = 1, #since, ID_BYTES do
    if fresh[string.sub(since, at, at + ID_BYTES - 1)] then return {'known', h.rev, h.count} end
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
local grown = {'count', h.count + many, 'log_bytes', h.log_bytes + tonumber(ARGV[9])}
for at = 12, first_record - 1 do table.insert(grown, ARGV[at]) end
changed(h, tonumber(ARGV[5]), grown)
return {'ok', h.rev, h.count + many}
