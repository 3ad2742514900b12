-- Drop a cached copy that is older than what the archive is known to hold, as a failover may bring one back.
-- ARGV  4 rev that the archive holds
-- Reply 1 | 0
expect('n')
local h = thread()
if not h or h.dirty or h.leased or h.rev >= tonumber(ARGV[4]) then return 0 end
vanish()
return 1
