-- Tell those who wait that nothing can be restored, and why; valid under the ticket alone, and for a short while.
-- ARGV  4 ticket   5 'absent' or 'failed'   6 reason   7 life (ms)
-- Reply 'told' | 'refused' (the ticket is gone, or the thread is here)
if thread() or redis.call('HGET', TICKET, 'mark') ~= ARGV[4] then return 'refused' end
redis.call('HSET', TICKET, 'verdict', ARGV[5], 'reason', ARGV[6])
redis.call('HDEL', TICKET, 'asked', 'asked_at')
redis.call('PEXPIRE', TICKET, ARGV[7])
announce(ARGV[5])
return 'told'
