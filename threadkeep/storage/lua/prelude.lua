-- What every operation starts with: its keys, Redis's own clock, and the few rules that all of them keep.
-- KEYS  1 head (hash)  2 base (list of pieces)  3 log (list)  4 ids (16 bytes a message)  5 ticket (hash)
--       6 index (zset)  7 erasing (hash)  8 tries (hash)  9 epoch  10 owed (set)  11… as the operation says
-- ARGV  1 the thread's index member   2 its channel   3 linger (ms)   4… as the operation says
local HEAD, BASE, LOG, IDS, TICKET, INDEX, ERASING, TRIES, EPOCH, OWED =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local MEMBER, CHANNEL, LINGER = ARGV[1], ARGV[2], tonumber(ARGV[3])
local PARTS = {HEAD, BASE, LOG, IDS}
local STRENGTH = {checkpoint = 1, linger = 2, evict = 3}

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local NOW_MS = math.floor(NOW / 1000)

-- Revisions exceed what Lua prints in full by itself; they stay below 2^53.
local function int(number) return string.format('%.0f', number) end

local NUMBERS = {'rev', 'archived', 'count', 'base_count', 'pieces', 'lease_until', 'keep_until', 'dirty_since'}
local STRINGS = {'gen', 'lease', 'etag', 'attempts', 'born'}

-- The thread's facts, or nil if any key or length is missing: a thread is whole here or absent.
local function thread()
  local numbers = redis.call('HMGET', HEAD, unpack(NUMBERS))
  if not numbers[1] then return nil end
  local strings = redis.call('HMGET', HEAD, unpack(STRINGS))
  local h = {}
  for i, name in ipairs(NUMBERS) do h[name] = tonumber(numbers[i] or '0') end
  for i, name in ipairs(STRINGS) do h[name] = strings[i] or '' end
  if redis.call('LLEN', BASE) ~= h.pieces then return nil end
  if redis.call('LLEN', LOG) ~= h.count - h.base_count then return nil end
  if redis.call('STRLEN', IDS) ~= 16 * h.count then return nil end
  h.dirty = h.rev ~= h.archived
  h.leased = h.lease ~= '' and h.lease_until > NOW_MS
  return h
end

-- Hot: no part may expire, and the sweep finds it.
local function stay()
  for _, key in ipairs(PARTS) do redis.call('PERSIST', key) end
  redis.call('ZADD', INDEX, NOW_MS, MEMBER)
end

-- Clean and unleased: a copy that may vanish, but only as a whole and not before those who wait for it can arrive.
local function fade(h, linger)
  local ms = math.max(linger, h.keep_until - NOW_MS)
  for _, key in ipairs(PARTS) do redis.call('PEXPIRE', key, int(ms)) end
  redis.call('ZREM', INDEX, MEMBER)
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

-- Why a session may not write: nil if it may. An expired lease that nobody took over still is its holder's.
local function refusal(h, token)
  if redis.call('EXISTS', ERASING) == 1 then return 'erasing' end
  if not h then return 'absent' end
  if h.lease == '' or h.lease ~= token then return 'fenced' end
  return nil
end

-- After every change of a session: a new revision, a renewed lease, no expiry. `fields` are further pairs for the head.
local function changed(h, lease_ms, fields)
  h.rev = math.max(h.rev + 1, NOW)
  redis.call('HSET', HEAD, 'rev', int(h.rev), 'active', int(NOW_MS), 'lease_until', int(NOW_MS + lease_ms), unpack(fields))
  if not h.dirty then redis.call('HSET', HEAD, 'dirty_since', int(NOW_MS)) end
  stay()
end

-- Mark that a flush is queued: one message for many requests, carrying the strongest mode asked for.
local function ask_flush(mode, token, marker_ms)
  local found = redis.call('HMGET', HEAD, 'flush_token', 'flush_mode', 'flush_at')
  if found[1] and NOW_MS - tonumber(found[3]) < marker_ms then
    if STRENGTH[mode] > STRENGTH[found[2]] then redis.call('HSET', HEAD, 'flush_mode', mode) end
    return 'coalesced'
  end
  if found[1] and STRENGTH[found[2]] > STRENGTH[mode] then mode = found[2] end
  redis.call('HSET', HEAD, 'flush_token', token, 'flush_mode', mode, 'flush_at', int(NOW_MS))
  return 'enqueue'
end

-- The attempts that a head lists, as '<rev>:<attempt> <rev>:<attempt> …'.
local function lists(h, attempt)
  for _, found in string.gmatch(h.attempts, '(%d+):(%x+)') do
    if found == attempt then return true end
  end
  return false
end

-- The catalog is still to be told; whoever has told it takes the thread out again, or the sweep tells it.
local function owe() redis.call('SADD', OWED, MEMBER) end

-- Leave Redis, or stay as a cached copy: only what the archive holds, and what nobody writes, may go.
local function leave(h, mode)
  redis.call('HDEL', HEAD, 'wanted')
  if h.dirty or h.leased or mode == 'checkpoint' then
    rest(h)
    return {'kept', int(NOW), '0'}
  end
  if mode == 'evict' and h.keep_until <= NOW_MS then
    vanish()
    owe()
    return {'evicted', int(NOW), '0'}
  end
  owe()
  return {'lingers', int(NOW), int(fade(h, mode == 'evict' and 0 or LINGER))}
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
