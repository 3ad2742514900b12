-- End an erasure and record that this request is complete. If the mark had vanished, somebody may have come back: start over.
-- KEYS  11 record of this request's completion
-- ARGV  4 life of the record (ms)   5 the receipt
-- Reply 'ok' | 'lost'
if redis.call('EXISTS', ERASING) == 0 then return 'lost' end
vanish()
redis.call('UNLINK', ERASING, TICKET)
redis.call('SET', KEYS[11], ARGV[5], 'PX', ARGV[4])
announce('erased')
return 'ok'
