-- What all functions of the library share: how stored values are laid out, checked and named in errors.
--
-- Redis hands `redis.call` and the standard libraries to a function only while it runs, never while the library loads,
-- so `start` fetches them at the first call of a process. With them it reads this process' run_id once: the Lua state
-- dies with the process, so it can't grow old (design: Epochs).
--
-- Rules every function keeps:
--   * everything that can be refused or found corrupt is found before the first write;
--   * what makes an append be is one HSET on the session's meta hash: state (field `s`) and producer together.
--     The window is written before it: until the state says so, what the window holds beyond it is void. So a call that
--     broke half-way has done nothing that counts, and its retry does it once;
--   * a stored value is never shown in an error, only the key that holds it.

-- epoch, seq, confirmed, partition, unconfirmed bytes, first seq in the window, window bytes ever written, window bytes
-- ever trimmed, records of producers so far, producers remembered, last append (ms), unconfirmed positions of the former
-- epoch
local STATE = '>c22I8I8I4I8I8I8I8I8I4I8I4'
local STATE_BYTES = 98
-- the former epoch: its name, last and confirmed seq (field `old`)
local OLD = '>c22I8I8'
local OLD_BYTES = 38
-- a producer: its last seq, and `records so far` at the time: who was used longest ago
local PRODUCER = '>I8I8'
local PRODUCER_BYTES = 16
-- content hash, epoch ms, epoch run, seq
local ENTRY = '>c8I6c4I6'
local ENTRY_BYTES = 24
-- Redis' Lua hashes every byte of every string it makes, so a ring of 64 entries read and written whole costs more than
-- all else together. It is kept in blocks of 8, each a field of its own; a ninth lets the oldest of 64 be in reach.
local RING_ENTRIES = 64 -- heliograph.core.limits.PRODUCER_RING
local BLOCK_ENTRIES = 8
local BLOCKS = 9
local PRODUCERS_KEPT = 1000 -- PRODUCERS_PER_SESSION
local CONSUMERS_KEPT = 1000 -- CONSUMERS_PER_SESSION
local PRODUCERS_STORED = 1100 -- heliograph.core.producers.PRODUCERS_STORED
local MESSAGE_ID_MS = '600000' -- MESSAGE_ID_MEMORY_S
local FRAME_START = '{"type":"message","position":"' -- heliograph.protocol.messages.FRAME_START
local FRAME_EPOCH = #FRAME_START + 1

local call, pcall_, pack, unpack_, format, sub, byte, match, number, floor, max, min
local run, run8, run4

local function start()
  call, pcall_ = redis.call, redis.pcall
  pack, unpack_, format, sub, byte, match =
    struct.pack, struct.unpack, string.format, string.sub, string.byte, string.match
  number, floor, max, min = tonumber, math.floor, math.max, math.min
  run8 = match(call('INFO', 'server'), 'run_id:(%x%x%x%x%x%x%x%x)')
  run4 = string.gsub(run8, '%x%x', function(two) return string.char(number(two, 16)) end)
  run = match(call('INFO', 'server'), 'run_id:(%x+)')
end

-- an error reply that Python turns into CorruptError; session names hold no spaces
local function corrupt(key, what)
  return redis.error_reply('HGCORRUPT ' .. key .. ' ' .. what)
end

-- an integer as text; '%d' is exact up to 2^63 here, where tostring() would say 9.007e+15
local function text(n)
  return format('%d', n)
end

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

local function epoch_of(ms, run_hex)
  return format('%013d-%s', ms, run_hex)
end

local function hex4(bytes)
  return format('%02x%02x%02x%02x', byte(bytes, 1, 4))
end

local MAX_SEQ = 9007199254740991

-- the session's state, unpacked (STATE); nil where it has none; nil and an error where it is not ours.
-- With `producer` it and the asked block of its ring come last, packed, or false.
local function state_of(meta, producer, block)
  local state, known, entries
  if producer then
    local found = pcall_('HMGET', meta, 's', producer, block)
    if found.err then return nil, corrupt(meta, 'not a hash') end
    state, known, entries = found[1], found[2], found[3]
  else
    state = pcall_('HGET', meta, 's')
    if type(state) == 'table' then return nil, corrupt(meta, 'not a hash') end
  end
  if not state then return nil end
  if #state ~= STATE_BYTES or byte(state, 14) ~= 45 or not number(sub(state, 1, 13)) then
    return nil, corrupt(meta, 'not a session state')
  end
  local epoch, seq, confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open =
    unpack_(STATE, state)
  if seq > MAX_SEQ or confirmed > seq then return nil, corrupt(meta, 'not a session state') end
  return epoch, seq, confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open, known,
    entries
end

-- the former epoch, its last and confirmed seq; nil where there is none; nil and an error where it is not ours
local function old_of(meta)
  local old = call('HGET', meta, 'old')
  if not old then return nil end
  if #old ~= OLD_BYTES then return nil, corrupt(meta, 'not a former epoch') end
  return unpack_(OLD, old)
end

-- the epoch (ms) of a virtual shard under this process, and the last epoch (ms) it gave; nil and an error where it is
-- not ours. `found`: its fields run, epoch, last
local function epoch_under_us(shard, found, now)
  if not found[1] then return now, now end
  local epoch, last = number(found[2]), number(found[3])
  if not epoch or not last then return nil, corrupt(shard, 'not a shard state') end
  if found[1] == run then return epoch, last end
  epoch = max(now, last + 1)
  return epoch, epoch
end

-- the earliest epoch (ms) that a session of a virtual shard may begin with from now on, whatever the clock does, and the
-- newest (ms) of those that were forgotten with their session; nil and an error where it is not ours
local function shard_of(shard)
  local found = pcall_('HMGET', shard, 'epoch', 'last', 'gone')
  if found.err then return nil, corrupt(shard, 'not a hash') end
  local epoch, last, gone = number(found[1] or 0), number(found[2] or 0), number(found[3] or 0)
  if not epoch or not last or not gone then return nil, corrupt(shard, 'not a shard state') end
  return last + 1, gone
end

-- note that a session is forgotten whose last epoch is this one; the newest such epoch (ms)
local function note_gone(shard, gone, epoch)
  local ms = number(sub(epoch, 1, 13))
  if ms <= gone then return gone end
  call('HSET', shard, 'gone', text(ms))
  return ms
end

-- the fields of a window entry, or nil: f (frame), h (log headers), c (window bytes written before it)
local function entry_of(entry)
  local fields = entry[2]
  if fields[1] == 'f' and fields[3] == 'h' and fields[5] == 'c' then return fields[2], fields[4], number(fields[6]) end
  return nil
end

-- A library of a higher revision is never replaced by a lower one: raise it with every change.
local REVISION = 9

redis.register_function { function_name = 'hg1_version', callback = function() return REVISION end, flags = { 'no-writes' } }
