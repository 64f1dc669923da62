-- append: judge the producer and the message id, check bounds, take the next seq, store, remember, publish.
--
-- KEYS: meta, window, producers, ahead, shard, dirty, idle, bytes [, id]
-- ARGV: session, tenant, rest, extras, size, partition, hash, producer, producer seq, bounds
-- `bounds`: unconfirmed messages, unconfirmed bytes, tenant's bytes in this shard, window messages, window bytes,
-- separated by commas.
-- Answers [status, epoch, seq, confirmed, partition, expected], numbers as text.
-- The judgement is heliograph.core.producers.ProducerLedger's; a contract test compares them.

local bounds_read, bounds_count = {}, 0

local function read_bounds(given)
  local a, b, c, d, e = match(given, '^(%d+),(%d+),(%d+),(%d+),(%d+)$')
  if not a then return nil end
  if bounds_count >= 1000 then bounds_read, bounds_count = {}, 0 end
  local bounds = { number(a), number(b), number(c), number(d), number(e) }
  bounds_read[given] = bounds
  bounds_count = bounds_count + 1
  return bounds
end

-- whether the log is known to have (epoch, seq) of a session in this state
local function is_confirmed(meta, ahead, epoch, confirmed, of_epoch, seq)
  local upto = confirmed
  if of_epoch ~= epoch then
    local old = call('HGET', meta, 'old')
    if not old or #old ~= OLD_BYTES then return true end -- no epoch is followed by another before it is confirmed
    local old_epoch, _, old_confirmed = unpack_(OLD, old)
    if of_epoch ~= old_epoch then return true end
    upto = old_confirmed
  end
  return seq <= upto or call('ZSCORE', ahead, sub(of_epoch, 1, 13) .. '-' .. text(seq)) ~= false
end

-- forget the rings used longest ago until PRODUCERS_KEPT are left
local function forget(producers)
  local all, used, names = call('HGETALL', producers), {}, {}
  for i = 1, #all, 2 do
    names[#names + 1] = all[i]
    used[all[i]] = #all[i + 1] >= RING_BYTES and select(2, unpack_(RING, all[i + 1])) or 0
  end
  table.sort(names, function(a, b) return used[a] < used[b] end)
  for i = 1, #names - PRODUCERS_KEPT, 500 do
    call('HDEL', producers, unpack(names, i, min(i + 499, #names - PRODUCERS_KEPT)))
  end
end

-- write a producer's ring; `uses` counts such writes of the session
local function remember(producers, producer, pseq, entries, entry, uses, is_new)
  if #entries >= RING_ENTRIES * ENTRY_BYTES then entries = sub(entries, ENTRY_BYTES + 1) end
  call('HSET', producers, producer, pack(RING, pseq, uses) .. entries .. entry)
  if is_new and call('HLEN', producers) > PRODUCERS_STORED then forget(producers) end
end

-- window bytes written before the first entry at or after (ms, seq)
local function bytes_before(window, ms, seq)
  local found = call('XRANGE', window, ms .. '-' .. text(seq), '+', 'COUNT', 1)[1]
  if not found then return nil end
  local _, _, before = entry_of(found)
  return before
end

-- trim the window to its size, never past what is unconfirmed; the new first seq and bytes trimmed
local function trim(window, ms, seq, confirmed, first, written, trimmed, bounds)
  local top = min(confirmed + 1, seq)
  -- while the log is away there is little or nothing to trim: looking again at every append would cost more than it gives
  if (top - first) * 16 < seq - first then return first, trimmed end
  local cut = max(first, seq - bounds[4] + 1)
  if written - trimmed > bounds[5] then
    local low, high = cut, seq -- the lowest seq from which on the window is small enough
    while low < high do
      local middle = floor((low + high) / 2)
      local before = bytes_before(window, ms, middle)
      if before and written - before <= bounds[5] then high = middle else low = middle + 1 end
    end
    cut = low
  end
  cut = min(cut, top)
  local before = bytes_before(window, ms, cut)
  if not before or before <= trimmed then return first, trimmed end
  call('XTRIM', window, 'MINID', ms .. '-' .. text(cut)) -- takes all of former epochs with it
  return cut, before
end

-- entries behind the session's head: of a call that broke before it wrote the state; nobody was told of them
local function drop_void(window, ms, seq)
  local void = pcall_('XRANGE', window, '(' .. ms .. '-' .. text(seq), '+')
  if void.err then return corrupt(window, 'not a stream') end
  for i = 1, #void do
    call('XDEL', window, void[i][1])
  end
end

local function append(keys, args)
  if not call then start() end
  local meta, window, producers, ahead = keys[1], keys[2], keys[3], keys[4]
  local shard, dirty, idle, bytes, id = keys[5], keys[6], keys[7], keys[8], keys[9]
  local session, tenant, rest, extras = args[1], args[2], args[3], args[4]
  local size, partition, hash, producer, pseq = number(args[5]), number(args[6]), args[7], args[8], number(args[9])
  local bounds = bounds_read[args[10]] or read_bounds(args[10])
  if not size or not partition or #hash ~= 8 or not pseq or not bounds then
    return redis.error_reply('ERR hg1_append: an argument is not what it must be')
  end

  -- what there is
  local state, fault = state_of(meta)
  if fault then return fault end
  local epoch, seq, confirmed, unconfirmed_bytes, first, written, trimmed, uses, old_open = '', 0, 0, 0, 1, 0, 0, 0, 0
  local kept_partition, at = partition, 0
  if state then
    epoch, seq, confirmed, kept_partition, unconfirmed_bytes, first, written, trimmed, uses, at, old_open =
      unpack_(STATE, state)
  end
  local ms = state and sub(epoch, 1, 13) or '0'

  -- the producer's counter
  local is_new, entries = true, ''
  if producer ~= '' then
    local ring = state and pcall_('HGET', producers, producer)
    if ring then
      if type(ring) == 'table' then return corrupt(producers, 'not a hash') end
      local length = #ring - RING_BYTES
      if length < 0 or length % ENTRY_BYTES ~= 0 or length > RING_ENTRIES * ENTRY_BYTES then
        return corrupt(producers, 'not a ring')
      end
      local last, stamp = unpack_(RING, ring)
      entries = sub(ring, RING_BYTES + 1)
      if stamp > uses then -- void: the state was not written after it
        last = last - 1
        entries = sub(entries, 1, -ENTRY_BYTES - 1)
      end
      is_new = last == 0
      if not is_new and pseq ~= last + 1 then
        if pseq > last then return { 'out_of_order', '', '0', '0', '-1', text(last + 1) } end
        local begin = #entries - (last - pseq + 1) * ENTRY_BYTES
        if begin < 0 then return { 'producer_seq_expired' } end
        local its_hash, its_ms, its_run, its_seq = unpack_(ENTRY, entries, begin + 1)
        if its_hash ~= hash then return { 'producer_seq_reused' } end
        local its_epoch = epoch_of(its_ms, hex4(its_run))
        local known = is_confirmed(meta, ahead, epoch, confirmed, its_epoch, its_seq)
        return { 'duplicate', its_epoch, text(its_seq), known and '1' or '0', text(kept_partition) }
      end
    end
    if is_new and pseq ~= 1 then return { 'producer_unknown' } end
  end

  -- the message id
  if id then
    local known = pcall_('GET', id)
    if known then
      if type(known) == 'table' or #known ~= ENTRY_BYTES then return corrupt(id, 'not a remembered message') end
      local its_hash, its_ms, its_run, its_seq = unpack_(ENTRY, known)
      local head_ms = number(ms)
      if state and (its_ms < head_ms or (its_ms == head_ms and its_seq <= seq)) then -- else void
        if its_hash ~= hash then return { 'message_id_reused' } end
        local its_epoch = epoch_of(its_ms, hex4(its_run))
        if producer ~= '' then
          remember(producers, producer, pseq, entries, known, uses + 1, is_new)
          call('HSET', meta, 's', pack(STATE, epoch, seq, confirmed, kept_partition, unconfirmed_bytes, first, written,
            trimmed, uses + 1, at, old_open))
        end
        local done = is_confirmed(meta, ahead, epoch, confirmed, its_epoch, its_seq)
        return { 'duplicate', its_epoch, text(its_seq), done and '1' or '0', text(kept_partition) }
      end
    end
  end

  -- bounds
  local open = seq - confirmed + old_open
  if open >= bounds[1] or unconfirmed_bytes >= bounds[2] then return { 'backlog' } end
  local sums = pcall_('HMGET', bytes, tenant, '*')
  if sums.err then return corrupt(bytes, 'not a hash') end
  local tenant_bytes, all_bytes = number(sums[1] or 0), number(sums[2] or 0)
  if not tenant_bytes or not all_bytes then return corrupt(bytes, 'not a number') end
  if tenant_bytes >= bounds[3] then return { 'backlog' } end

  -- the epoch
  local now = now_ms()
  local shard_ms, last_ms, stored = shard_of(shard, now)
  if not shard_ms then return last_ms end
  local begin = not state or not stored or sub(epoch, 15) ~= run8 or number(ms) < shard_ms
  if begin and state and old_open > 0 then return { 'recovering' } end

  -- from here on it is written
  local was_clean, added, frame, old = open == 0, nil, nil, nil
  if was_clean then
    added = pcall_('ZADD', dirty, text(now), session)
    if type(added) == 'table' then return corrupt(dirty, 'not a sorted set') end
  end
  if not state then
    added = pcall_('ZADD', idle, text(now), session)
    if type(added) == 'table' then
      call('ZREM', dirty, session)
      return corrupt(idle, 'not a sorted set')
    end
    call('DEL', window, producers, ahead)
  end
  while true do
    if begin then
      if state then
        fault = drop_void(window, ms, seq)
        if fault then
          if was_clean then call('ZREM', dirty, session) end
          return fault
        end
        old = pack(OLD, epoch, seq, confirmed)
        old_open = seq - confirmed
      end
      last_ms = max(now, last_ms + 1)
      call('HSET', shard, 'run', run, 'epoch', text(shard_ms), 'last', text(last_ms))
      epoch, ms = epoch_of(last_ms, run8), text(last_ms)
      seq, confirmed, first, trimmed = 0, 0, 1, state and trimmed or 0
    end
    frame = '{"type":"message","position":"' .. epoch .. format('-%016.0f",', seq + 1) .. rest
    added = pcall_('XADD', window, ms .. '-' .. text(seq + 1), 'f', frame, 'h', extras, 'c', text(written))
    if type(added) ~= 'table' then break end
    -- an entry behind the head is void; its id is spent, so the session goes on in an epoch of its own
    if begin or not string.find(added.err, 'equal or smaller', 1, true) or old_open > 0 then
      if was_clean then call('ZREM', dirty, session) end
      return corrupt(window, 'can not be appended to')
    end
    begin = true
  end
  seq = seq + 1
  written = written + #frame + #extras
  local entry = pack(ENTRY, hash, number(ms), run4, seq)
  if producer ~= '' then
    uses = uses + 1
    remember(producers, producer, pseq, entries, entry, uses, is_new)
  end
  if id then call('SET', id, entry, 'PX', MESSAGE_ID_MS) end
  if old_open == 0 and ((seq - first + 1) * 8 > bounds[4] * 9 or (written - trimmed) * 8 > bounds[5] * 9) then
    first, trimmed = trim(window, ms, seq, confirmed, first, written, trimmed, bounds)
  end
  state = pack(STATE, epoch, seq, confirmed, kept_partition, unconfirmed_bytes + size, first, written, trimmed, uses,
    now, old_open)
  if old then call('HSET', meta, 's', state, 'old', old) else call('HSET', meta, 's', state) end
  call('HSET', bytes, tenant, text(tenant_bytes + size), '*', text(all_bytes + size))
  call('SPUBLISH', window, frame)
  return { 'ok', epoch, text(seq), '0', text(kept_partition) }
end

redis.register_function('hg1_append', append)
