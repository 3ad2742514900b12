-- Give the lease back, and mark the flush that follows. Safe to repeat.
-- ARGV  4 token   5 mode   6 flush token   7 marker (ms)   8 rev that the session was told last
-- Reply {'enqueue' (publish the flush) | 'coalesced' (one is queued) | 'clean' (nothing to archive) | 'fenced', rev}
--     | {'erasing'} | {'absent'}
-- Where Redis fell back to before that rev, a flush follows in any case: its worker notes the loss, or else the sweep.
expect('tmtnn')
local h = thread()
local fallen = behind(h, ARGV[8])
local no = refusal(h, ARGV[4])
if no == 'fenced' then return {no, h.rev} end
if no then return {no} end
redis.call('HDEL', HEAD, 'lease', 'lease_until')
h.leased = false
if not h.dirty and not fallen then
  leave(h, ARGV[5])
  return {'clean', h.rev}
end
if not h.dirty then
  owe()
  rest(h)
end
return {ask_flush(ARGV[5], ARGV[6], tonumber(ARGV[7])), h.rev}
