-- Give the lease back, and mark the flush that follows. Safe to repeat.
-- ARGV  4 token   5 mode   6 flush token   7 marker (ms)
-- Reply 'enqueue' (publish the flush) | 'coalesced' (one is queued) | 'clean' (nothing to archive) | 'erasing' | 'absent' | 'fenced'
local h = thread()
local no = refusal(h, ARGV[4])
if no then return no end
redis.call('HDEL', HEAD, 'lease', 'lease_until')
h.leased = false
if not h.dirty then
  leave(h, ARGV[5])
  return 'clean'
end
return ask_flush(ARGV[5], ARGV[6], tonumber(ARGV[7]))
