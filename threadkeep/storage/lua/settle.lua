-- Trim the records that the archive now holds, and append their frames to the base. Atomic; safe to repeat.
-- KEYS  11 staged frames (list of pieces); none where they are small and come along
-- ARGV  4 attempt   5 gen as read   6 new gen   7 sealed rev   8 records sealed   9 their bytes   10 messages in the archive
--       11 pieces (0: none, in the hope of leaving at once)   12 '1' if they replace the base   13 mode
--       14 the one piece; '' where they are staged   15… pairs for the head
-- Reply {'evicted'|'lingers'|'kept', stamp, expires (ms)} | {'stage'} (call again with the frames)
--     | {'still_hot'} (gen moved or the attempt is not listed: nothing changed) | {'gone'}
expect('httnnnnntmtp')
if redis.call('EXISTS', ERASING) == 1 then return {'gone'} end
local h = thread()
if not h then return {'gone'} end
if h.gen == ARGV[6] then return leave(h, ARGV[13]) end
if h.gen ~= ARGV[5] or not lists(h, ARGV[4]) then return {'still_hot'} end
if ARGV[14] ~= '' and ARGV[11] ~= '1' then refuse('what comes along is one piece') end
local rev, records, pieces = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[11])
if rev > h.rev or records > h.count - h.base_count or tonumber(ARGV[10]) ~= h.base_count + records then
  return {'still_hot'}
end
local mode, full = ARGV[13], redis.pcall('HSET', HEAD, 'gen', h.gen)  -- changes nothing, and is refused where memory is full
if type(full) == 'table' and full.err and mode == 'linger' then mode = 'evict' end
redis.call('HDEL', TRIES, 'flush|' .. MEMBER)  -- first: a script that has written may go on when memory is full
owe()
local whole = h.rev == rev and not h.leased
if whole and mode == 'evict' and h.keep_until <= NOW_MS then
  vanish()
  announce('flushed')
  return {'evicted', NOW, '0'}
end
local staged = ARGV[14] == ''
if pieces == 0 or (staged and (not KEYS[11] or redis.call('LLEN', KEYS[11]) ~= pieces)) then return {'stage'} end
if ARGV[12] == '1' then
  redis.call('UNLINK', BASE)
  h.pieces = 0
end
if not staged then
  redis.call('RPUSH', BASE, ARGV[14])
elseif h.pieces == 0 then
  redis.call('RENAME', KEYS[11], BASE)
else
  for _ = 1, pieces do redis.call('LMOVE', KEYS[11], BASE, 'LEFT', 'RIGHT') end
end
if records == h.count - h.base_count then redis.call('UNLINK', LOG) else redis.call('LTRIM', LOG, ARGV[8], -1) end
redis.call('HINCRBY', HEAD, 'log_bytes', 0 - tonumber(ARGV[9]))
local attempts = {}
for at, attempt in string.gmatch(h.attempts, '(%d+):(%x+)') do
  if tonumber(at) > rev then table.insert(attempts, at .. ':' .. attempt) end
end
redis.call('HSET', HEAD, 'archived', rev, 'gen', ARGV[6], 'base_count', ARGV[10], 'pieces', h.pieces + pieces,
  'attempts', table.concat(attempts, ' '), 'dirty_since', NOW_MS, unpack(ARGV, 15))
announce('flushed')
return leave(thread(), mode)
