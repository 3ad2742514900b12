-- Save the state or the labels. Safe to repeat.
-- ARGV  4 token   5 lease (ms)   6… pairs of a head's field and its value
-- Reply {'ok', rev} | {'erasing'} | {'absent'} | {'fenced'}
local h = thread()
local no = refusal(h, ARGV[4])
if no then return {no} end
changed(h, tonumber(ARGV[5]), {unpack(ARGV, 6)})
return {'ok', int(h.rev)}
