-- Tell those who wait that nothing can be restored, and why; valid under the ticket alone, and for a short while.
-- ARGV  4 ticket   5 'absent', 'failed' or 'lost'   6 reason   7 life (ms)   8 rev of the tombstone that was found; 0 if none
--       9 what becomes of a thread that is half here: 'stays', 'shelved' (the sweep leaves it alone) or 'goes'
-- Reply 'told' | 'refused' (the ticket is gone, or the thread is here)
expect('tttdnt')
if thread() or redis.call('HGET', TICKET, 'mark') ~= ARGV[4] then return 'refused' end
redis.call('HSET', TICKET, 'verdict', ARGV[5], 'reason', ARGV[6], 'floor', ARGV[8])
redis.call('HDEL', TICKET, 'asked', 'asked_at')
if ARGV[9] == 'goes' then vanish() end
if ARGV[9] == 'shelved' then redis.call('ZREM', INDEX, MEMBER) end
redis.call('PEXPIRE', TICKET, ARGV[7])
announce(ARGV[5])
return 'told'
