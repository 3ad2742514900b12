-- Mark that a flush is wanted. Any number of requests before its first act make one message.
-- ARGV  4 mode   5 flush token   6 marker (ms)
-- Reply 'enqueue' | 'coalesced' | 'clean' | 'absent' | 'erasing'
expect('mtn')
if redis.call('EXISTS', ERASING) == 1 then return 'erasing' end
local h = thread()
if not h then return 'absent' end
if not h.dirty then
  leave(h, ARGV[4])
  return 'clean'
end
return ask_flush(ARGV[4], ARGV[5], tonumber(ARGV[6]))
