-- append: judge the producer and the message id, check bounds, take the next seq, store, remember, publish.
--
-- KEYS: meta, window, ahead, shard, dirty, idle [, id]
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
    local old_epoch, _, old_confirmed = old_of(meta)
    if of_epoch ~= old_epoch then return true end -- no epoch is followed by another but one before it is confirmed
    upto = old_confirmed
  end
  return seq <= upto or call('ZSCORE', ahead, sub(of_epoch, 1, 13) .. '-' .. text(seq)) ~= false
end

-- whether a position that a message id points at came to be: the call that wrote it may have broken
local function is_real(meta, epoch, head, of_epoch, seq)
  if of_epoch == epoch then return seq <= head end
  local old_epoch, old_last = old_of(meta)
  return old_epoch ~= nil and (of_epoch < old_epoch or (of_epoch == old_epoch and seq <= old_last))
end

-- forget the rings used longest ago until PRODUCERS_KEPT are left
local function forget(meta)
  local all, used, names = call('HGETALL', meta), {}, {}
  for i = 1, #all, 2 do
    if all[i] ~= 's' and all[i] ~= 'old' then
      names[#names + 1] = all[i]
      used[all[i]] = #all[i + 1] >= RING_BYTES and select(2, unpack_(RING, all[i + 1])) or 0
    end
  end
  if #names <= PRODUCERS_STORED then return end
  table.sort(names, function(a, b) return used[a] < used[b] end)
  for i = 1, #names - PRODUCERS_KEPT, 500 do
    call('HDEL', meta, unpack(names, i, min(i + 499, #names - PRODUCERS_KEPT)))
  end
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
  local meta, window, ahead, shard, dirty, idle, id = keys[1], keys[2], keys[3], keys[4], keys[5], keys[6], keys[7]
  local session, tenant, rest, extras = args[1], args[2], args[3], args[4]
  local size, today, hash, producer, pseq = number(args[5]), number(args[6]), args[7], args[8], number(args[9])
  local bounds = bounds_read[args[10]] or read_bounds(args[10])
  if not size or not today or #hash ~= 8 or not pseq or not bounds then
    return redis.error_reply('ERR hg1_append: an argument is not what it must be')
  end
  local counted = producer ~= ''

  -- what there is
  local epoch, seq, confirmed, partition, open_bytes, first, written, trimmed, uses, at, old_open, ring =
    state_of(meta, counted and producer)
  if not epoch then
    if seq then return seq end
    seq, confirmed, partition, open_bytes, first, written, trimmed, uses, at, old_open =
      0, 0, today, 0, 1, 0, 0, 0, 0, 0
  end

  -- the producer's counter
  local entries = ''
  if ring then
    local length = #ring - RING_BYTES
    if length < 0 or length % ENTRY_BYTES ~= 0 or length > RING_ENTRIES * ENTRY_BYTES then
      return corrupt(meta, 'not a ring')
    end
    local last = unpack_(RING, ring)
    entries = sub(ring, RING_BYTES + 1)
    if pseq ~= last + 1 then
      if pseq > last then return { 'out_of_order', '', '0', '0', '-1', text(last + 1) } end
      local begin = length - (last - pseq + 1) * ENTRY_BYTES
      if begin < 0 then return { 'producer_seq_expired' } end
      local its_hash, its_ms, its_run, its_seq = unpack_(ENTRY, entries, begin + 1)
      if its_hash ~= hash then return { 'producer_seq_reused' } end
      local its_epoch = epoch_of(its_ms, hex4(its_run))
      local known = is_confirmed(meta, ahead, epoch, confirmed, its_epoch, its_seq)
      return { 'duplicate', its_epoch, text(its_seq), known and '1' or '0', text(partition) }
    end
  elseif counted and pseq ~= 1 then
    return { 'producer_unknown' }
  end
  if #entries >= RING_ENTRIES * ENTRY_BYTES then entries = sub(entries, ENTRY_BYTES + 1) end

  -- the message id
  if id then
    local known = pcall_('GET', id)
    if known then
      if type(known) == 'table' or #known ~= ENTRY_BYTES then return corrupt(id, 'not a remembered message') end
      local its_hash, its_ms, its_run, its_seq = unpack_(ENTRY, known)
      local its_epoch = epoch_of(its_ms, hex4(its_run))
      if epoch and is_real(meta, epoch, seq, its_epoch, its_seq) then
        if its_hash ~= hash then return { 'message_id_reused' } end
        if counted then
          uses = uses + 1
          call('HSET', meta, producer, pack(RING, pseq, uses) .. entries .. known, 's', pack(STATE, epoch, seq,
            confirmed, partition, open_bytes, first, written, trimmed, uses, at, old_open))
          if not ring and call('HLEN', meta) > PRODUCERS_STORED + 1 then forget(meta) end
        end
        known = is_confirmed(meta, ahead, epoch, confirmed, its_epoch, its_seq)
        return { 'duplicate', its_epoch, text(its_seq), known and '1' or '0', text(partition) }
      end
    end
  end

  -- bounds
  local open = seq - confirmed + old_open
  if open >= bounds[1] or open_bytes >= bounds[2] then return { 'backlog' } end
  local of_tenant = 'bytes:' .. tenant
  local found = pcall_('HMGET', shard, 'run', 'epoch', 'last', 'bytes', of_tenant)
  if found.err then return corrupt(shard, 'not a hash') end
  local all_bytes, tenant_bytes = number(found[4] or 0), number(found[5] or 0)
  if not tenant_bytes or not all_bytes then return corrupt(shard, 'bytes are not a number') end
  if tenant_bytes >= bounds[3] then return { 'backlog' } end

  -- the epoch
  local now = now_ms()
  local shard_ms, last_ms, stored = epoch_under_us(shard, found, now)
  if not shard_ms then return last_ms end
  local ms = epoch and sub(epoch, 1, 13)
  local begin = not epoch or not stored or sub(epoch, 15) ~= run8 or number(ms) < shard_ms
  if begin and old_open > 0 then return { 'recovering' } end

  -- from here on it is written
  local added, fault, frame, old
  if open == 0 then
    added = pcall_('ZADD', dirty, text(now), session)
    if type(added) == 'table' then return corrupt(dirty, 'not a sorted set') end
  end
  if not epoch then
    added = pcall_('ZADD', idle, text(now), session)
    if type(added) == 'table' then
      call('ZREM', dirty, session)
      return corrupt(idle, 'not a sorted set')
    end
    call('DEL', meta, window, ahead)
  end
  while true do
    if begin then
      if epoch then
        fault = drop_void(window, ms, seq)
        if fault then break end
        old, old_open = pack(OLD, epoch, seq, confirmed), seq - confirmed
      end
      last_ms = max(now, last_ms + 1)
      call('HSET', shard, 'run', run, 'epoch', text(shard_ms), 'last', text(last_ms))
      epoch, ms = epoch_of(last_ms, run8), text(last_ms)
      seq, confirmed, first = 0, 0, 1
    end
    frame = '{"type":"message","position":"' .. epoch .. format('-%016.0f",', seq + 1) .. rest
    added = pcall_('XADD', window, ms .. '-' .. text(seq + 1), 'f', frame, 'h', extras, 'c', text(written))
    if type(added) ~= 'table' then break end
    -- an entry behind the head is void; its id is spent, so the session goes on in an epoch of its own
    if begin or not string.find(added.err, 'equal or smaller', 1, true) then
      fault = corrupt(window, 'can not be appended to')
      break
    end
    if old_open > 0 then return { 'recovering' } end
    begin = true
  end
  if fault then
    if open == 0 then call('ZREM', dirty, session) end
    return fault
  end
  seq = seq + 1
  written = written + #frame + #extras
  local entry = pack(ENTRY, hash, number(ms), run4, seq)
  if id then call('SET', id, entry, 'PX', MESSAGE_ID_MS) end
  if old_open == 0 and ((seq - first + 1) * 8 > bounds[4] * 9 or (written - trimmed) * 8 > bounds[5] * 9) then
    first, trimmed = trim(window, ms, seq, confirmed, first, written, trimmed, bounds)
  end
  uses = uses + 1
  local state = pack(STATE, epoch, seq, confirmed, partition, open_bytes + size, first, written, trimmed, uses, now,
    old_open)
  if counted then
    local is_new = not ring
    ring = pack(RING, pseq, uses) .. entries .. entry
    if old then
      call('HSET', meta, producer, ring, 's', state, 'old', old)
    else
      call('HSET', meta, producer, ring, 's', state)
    end
    if is_new and call('HLEN', meta) > PRODUCERS_STORED + 1 then forget(meta) end
  elseif old then
    call('HSET', meta, 's', state, 'old', old)
  else
    call('HSET', meta, 's', state)
  end
  call('HSET', shard, 'bytes', text(all_bytes + size), of_tenant, text(tenant_bytes + size))
  call('SPUBLISH', window, frame)
  return { 'ok', epoch, text(seq), '0', text(partition) }
end

redis.register_function('hg1_append', append)
