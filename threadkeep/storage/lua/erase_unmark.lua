-- End an erasure, record that this request is complete, and have the grave looked at again. If this very mark is not
-- there, somebody may have come back, or another worker was faster: start over.
-- KEYS  11 record of this request's completion   12 graves (zset)
-- ARGV  4 the mark, as `erase_mark` set it   5 life of the record (ms)   6 the receipt   7 rev of the tombstone; '' if nothing was buried
--       8 look at the grave again after (ms)
-- Reply 'ok' | 'lost'
expect('tdtNn', 2)
if redis.call('HGET', ERASING, 'mark') ~= ARGV[4] then return 'lost' end
vanish()
redis.call('UNLINK', ERASING, TICKET)
redis.call('SET', KEYS[11], ARGV[6], 'PX', ARGV[5])
if ARGV[7] ~= '' then redis.call('ZADD', KEYS[12], NOW_MS + tonumber(ARGV[8]), ARGV[7] .. ' ' .. MEMBER) end
announce('erased')
return 'ok'
