-- What operations share: their keys, Redis's own clock, and the few rules that all of them keep. A block ends at an empty
-- line and defines what its first line of code says; each operation is sent with the blocks that it uses, no others.
-- KEYS  1 head (hash)  2 base (list of pieces)  3 log (list)  4 ids (ID_BYTES a message)  5 ticket (hash)
--       6 index (zset)  7 erasing (hash)  8 tries (hash)  9 epoch  10 owed (zset)  11… as the operation says
-- ARGV  1 the thread's index member   2 its channel   3 linger (ms)   4… as the operation says
local HEAD, BASE, LOG, IDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local TICKET, INDEX, ERASING, TRIES, EPOCH, OWED = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

local MEMBER, CHANNEL, LINGER = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Bytes of the hash of a message id.
local ID_BYTES = 8

local STRENGTH = {checkpoint = 1, linger = 2, evict = 3}

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local NOW_MS = math.floor(NOW / 1000)

-- A number as a text for other texts. Revisions exceed what Lua prints in full by itself, unlike Redis, to which numbers
-- go as they are; they stay below 2^53.
local function int(number) return string.format('%.0f', number) end

-- A script that fails half-way is not undone, so all that could make it fail is looked at before it writes anything.
local function refuse(what) error('refused before anything was written: ' .. what, 0) end

local function is_whole(text)
  return (text == '0' or string.find(text, '^[1-9]%d*$') ~= nil) and #text <= 16 and tonumber(text) < 2 ^ 52
end

-- Whether a text is of a kind: 't' any, 'T' none that is empty, 'n' a number, 'N' a number or nothing, 'd' a duration,
-- 'm' a flush's mode, 'h' a random mark.
local function is_of(kind, text)
  if kind == 't' then return true end
  if kind == 'n' then return is_whole(text) end
  if kind == 'd' then return text ~= '0' and is_whole(text) end
  if kind == 'h' then return #text <= 64 and string.find(text, '^%x+$') ~= nil end
  if kind == 'T' then return text ~= '' end
  if kind == 'N' then return text == '' or is_whole(text) end
  return text == 'linger' or text == 'evict' or text == 'checkpoint'
end

local function check(at, kind)
  if not ARGV[at] or not is_of(kind, ARGV[at]) then refuse('argument ' .. at .. ' is missing or malformed') end
end

-- Pairs of a field and its value stand from one argument to another: fields of a head that a caller may set. What a
-- thread is made of belongs to the operations.
local function check_pairs(first, last)
  if (last - first) % 2 == 0 or last - first > 64 or last > #ARGV then refuse('its fields are no pairs') end
  if last < first then return end
  local fields = {
    codec = 't', state = 't', labels = 't', forked_from = 't', chain = 't', etag = 't', base_etag = 't', key = 't',
    base_bytes = 'n', frames = 'n', raw_bytes = 'n', log_bytes = 'n', born = 'n',
  }
  for at = first, last, 2 do
    local kind = fields[ARGV[at]]
    if not kind then refuse('argument ' .. at .. ' names no field that can be set') end
    check(at + 1, kind)
  end
end

-- What an operation takes from ARGV[4] on: the kind of each argument; at the end `p` for pairs of a field and its value,
-- or `*` for what the operation looks at itself. And how many KEYS behind those that all of them have.
local function expect(kinds, keys)
  if #KEYS < 10 + (keys or 0) then refuse('keys are missing') end
  check(3, 'n')
  local last = string.sub(kinds, -1)
  local fixed = (last == 'p' or last == '*') and #kinds - 1 or #kinds
  for at = 4, 3 + fixed do check(at, string.sub(kinds, at - 3, at - 3)) end
  if last == 'p' then check_pairs(4 + fixed, #ARGV) end
  if fixed == #kinds and #ARGV > 3 + fixed then refuse('there are too many arguments') end
end

-- The thread's facts, or nil if any key or length is missing: a thread is whole here or absent.
local function thread()
  local f = redis.call('HMGET', HEAD, 'rev', 'archived', 'born', 'count', 'base_count', 'pieces', 'log_bytes',
    'lease_until', 'keep_until', 'dirty_since', 'gen', 'lease', 'etag', 'attempts')
  if not f[1] then return nil end
  for i = 2, 10 do f[i] = f[i] or '0' end
  if string.find(table.concat(f, ' ', 1, 10), '[^%d %-]') then refuse('a number of the head is none') end
  local h = {
    rev = tonumber(f[1]), archived = tonumber(f[2]), born = tonumber(f[3]), count = tonumber(f[4]),
    base_count = tonumber(f[5]), pieces = tonumber(f[6]), log_bytes = tonumber(f[7]), lease_until = tonumber(f[8]),
    keep_until = tonumber(f[9]), dirty_since = tonumber(f[10]),
    gen = f[11] or '', lease = f[12] or '', etag = f[13] or '', attempts = f[14] or '',
  }
  if redis.call('LLEN', BASE) ~= h.pieces then return nil end
  if redis.call('LLEN', LOG) ~= h.count - h.base_count then return nil end
  if redis.call('STRLEN', IDS) ~= ID_BYTES * h.count then return nil end
  h.dirty = h.rev ~= h.archived
  h.leased = h.lease ~= '' and h.lease_until > NOW_MS
  return h
end

-- The base's pieces, the log's records and the ids of a thread that is here; false for what has more than `most` bytes,
-- which is read in pages, and for ids that are not wanted.
local function small_parts(h, most, with_ids)
  local base = tonumber(redis.call('HGET', HEAD, 'base_bytes') or '0') <= most and redis.call('LRANGE', BASE, 0, -1)
  local log = h.log_bytes <= most and redis.call('LRANGE', LOG, 0, -1)
  local ids = with_ids and ID_BYTES * h.count <= most and (redis.call('GET', IDS) or '')
  return base, log, ids
end

-- What is left of a thread that is not whole: when the index last saw it ('0': it does not list it), the lengths of base,
-- log and ids, and the head's fields. Nothing at all where nothing was lost.
local function remains()
  local head, seen = redis.call('HGETALL', HEAD), redis.call('ZSCORE', INDEX, MEMBER)
  if #head == 0 and not seen then return end
  return seen or '0', redis.call('LLEN', BASE), redis.call('LLEN', LOG), redis.call('STRLEN', IDS), unpack(head)
end

-- Hot: no part may expire, and the sweep finds it.
local function stay()
  for _, key in ipairs({HEAD, BASE, LOG, IDS}) do redis.call('PERSIST', key) end
  redis.call('ZADD', INDEX, NOW_MS, MEMBER)
end

-- An earlier version kept what is owed without its time.
local function date_debts()
  if redis.call('TYPE', OWED).ok ~= 'set' then return end
  local members = redis.call('SMEMBERS', OWED)
  redis.call('UNLINK', OWED)
  for _, member in ipairs(members) do redis.call('ZADD', OWED, NOW, member) end
end

-- The catalog is still to be told of what is so from now on; whoever has told it takes the thread out again, or the
-- sweep tells it.
local function owe()
  date_debts()
  redis.call('ZADD', OWED, NOW, MEMBER)
end

-- Clean and unleased: a copy that may vanish, but only as a whole and not before those who wait for it can arrive. Once
-- it has left the index no sweep sees that it is hot no more, so the catalog is owed that.
local function fade(h, linger)
  local ms = math.max(linger, h.keep_until - NOW_MS)
  for _, key in ipairs({HEAD, BASE, LOG, IDS}) do redis.call('PEXPIRE', key, ms) end
  if redis.call('ZREM', INDEX, MEMBER) == 1 then owe() end
  return NOW_MS + ms
end

local function rest(h)
  if h.dirty or h.leased then stay() return 0 end
  return fade(h, LINGER)
end

local function vanish()
  redis.call('UNLINK', HEAD, BASE, LOG, IDS)
  redis.call('ZREM', INDEX, MEMBER)
end

local function announce(news) redis.call('PUBLISH', CHANNEL, news) end

-- Why a session may not write: nil if it may. An expired lease that nobody took over still is its holder's. Where a head
-- is, no erasure is under way: marking one removes it, and while the mark stands none is made.
local function refusal(h, token)
  if not h then return redis.call('EXISTS', ERASING) == 1 and 'erasing' or 'absent' end
  if h.lease == '' or h.lease ~= token then return 'fenced' end
  return nil
end

-- Whether Redis fell back to before a revision that a session was told; remembered until a worker has noted it.
local function behind(h, told)
  if not h or h.rev >= tonumber(told) then return false end
  redis.call('HSET', HEAD, 'lost', told .. ' ' .. int(h.rev))
  return true
end

-- After every change of a session: a new revision, a renewed lease, no expiry. `fields` are further pairs for the head.
-- A thread that was dirty or leased before has none already; whoever brought in keys that have one calls `stay` himself.
local function changed(h, lease_ms, fields)
  h.rev = math.max(h.rev + 1, NOW)
  redis.call('HSET', HEAD, 'rev', h.rev, 'active', NOW_MS, 'lease_until', NOW_MS + lease_ms, unpack(fields))
  if not h.dirty then redis.call('HSET', HEAD, 'dirty_since', NOW_MS) end
  if h.dirty or h.leased then redis.call('ZADD', INDEX, NOW_MS, MEMBER) else stay() end
end

-- Mark that a flush is queued: one message for many requests, carrying the strongest mode asked for.
local function ask_flush(mode, token, marker_ms)
  local found = redis.call('HMGET', HEAD, 'flush_token', 'flush_mode', 'flush_at')
  if found[1] and NOW_MS - tonumber(found[3]) < marker_ms then
    if STRENGTH[mode] > STRENGTH[found[2]] then redis.call('HSET', HEAD, 'flush_mode', mode) end
    return 'coalesced'
  end
  if found[1] and STRENGTH[found[2]] > STRENGTH[mode] then mode = found[2] end
  redis.call('HSET', HEAD, 'flush_token', token, 'flush_mode', mode, 'flush_at', NOW_MS)
  return 'enqueue'
end

-- The attempts that a head lists, as '<rev>:<attempt> <rev>:<attempt> …'.
local function lists(h, attempt)
  for _, found in string.gmatch(h.attempts, '(%d+):(%x+)') do
    if found == attempt then return true end
  end
  return false
end

-- Leave Redis, or stay as a cached copy: only what the archive holds, and what nobody writes, may go.
local function leave(h, mode)
  redis.call('HDEL', HEAD, 'wanted')
  if h.dirty or h.leased then
    stay()
    return {'kept', NOW, 0}
  end
  if mode == 'evict' and h.keep_until <= NOW_MS then
    vanish()
    owe()
    return {'evicted', NOW, 0}
  end
  owe()
  return {'lingers', NOW, fade(h, mode == 'evict' and 0 or LINGER)}
end

-- A run begins. One that began before and never ended has died: the same run again, or another after its time limit.
-- How many have died; runs at the same time are not counted against each other.
local function begin_run(kind, run, limit_ms)
  local field = kind .. MEMBER
  local deaths, last, at = string.match(redis.call('HGET', TRIES, field) or '', '^(%d+) (%S+) (%d+)$')
  deaths = tonumber(deaths or '0')
  if last and (last == run or NOW_MS - tonumber(at) > limit_ms) then deaths = deaths + 1 end
  redis.call('HSET', TRIES, field, int(deaths) .. ' ' .. run .. ' ' .. int(NOW_MS))
  return deaths
end
