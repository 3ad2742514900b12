-- After a lost race: does what is stored belong to this head, and does my own attempt?
-- ARGV  4 my attempt   5 the stored object's attempt   6 its ETag
-- Reply {'own'|'foreign'|'gone', '1' if this thread was never archived}
expect('ttt')
local h = thread()
if redis.call('EXISTS', ERASING) == 1 or not h or not lists(h, ARGV[4]) then return {'gone', '0'} end
local never = (h.archived == 0 and h.etag == '') and '1' or '0'
if h.etag == ARGV[6] or (ARGV[5] ~= '' and lists(h, ARGV[5])) then return {'own', never} end
return {'foreign', never}
