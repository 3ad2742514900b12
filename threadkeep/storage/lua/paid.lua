-- The catalog was told how things stood at a moment: a debt of a later one stays.
-- ARGV  4 that moment (µs)
-- Reply 1 | 0
expect('n')
date_debts()
local owed = redis.call('ZSCORE', OWED, MEMBER)
if not owed or tonumber(owed) > tonumber(ARGV[4]) then return 0 end
return redis.call('ZREM', OWED, MEMBER)
