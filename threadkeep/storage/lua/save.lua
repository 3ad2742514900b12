-- Save the state or the labels. Safe to repeat.
-- ARGV  4 token   5 lease (ms)   6 rev that the session was told last   7… pairs of a head's field and its value
-- Reply {'ok', rev} | {'erasing'} | {'absent'} | {'fenced'} | {'behind'} (Redis fell back to before that rev)
expect('tdnp')
local h = thread()
if behind(h, ARGV[6]) then return {'behind'} end
local no = refusal(h, ARGV[4])
if no then return {no} end
changed(h, tonumber(ARGV[5]), {unpack(ARGV, 7)})
return {'ok', h.rev}
