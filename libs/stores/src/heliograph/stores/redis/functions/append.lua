-- append: judge the producer and the message id, check bounds, take the next seq, store, remember, publish.
--
-- KEYS: meta, window, ahead, shard, dirty, idle [, id]
-- ARGV: session, tenant, rest, extras, producer, fixed, bounds
-- `fixed`: content hash (8 bytes), producer seq (8), size (4), partition (4).
-- `bounds`: unconfirmed messages, unconfirmed bytes, tenant's bytes in this shard, window messages, window bytes,
-- separated by commas.
-- Answers [status, epoch, seq, confirmed, partition, expected], numbers as text.
-- The judgement is heliograph.core.producers.ProducerLedger's; a contract test compares them.

local FIXED = '>c8I8I4I4'
local FIXED_BYTES = 24

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

-- the field that holds the block of a producer's ring with `pseq`; names hold no control characters
local function block_of(producer, pseq)
  return producer .. '\0' .. floor((pseq - 1) / BLOCK_ENTRIES) % BLOCKS
end

-- forget the producers used longest ago until PRODUCERS_KEPT are left with the one to come; how many that are
local function forget(meta)
  local fields, names, used = call('HKEYS', meta), {}, {}
  for i = 1, #fields do
    if fields[i] ~= 's' and fields[i] ~= 'old' and not string.find(fields[i], '\0', 1, true) then
      names[#names + 1] = fields[i]
    end
  end
  for i = 1, #names, 500 do
    local found = call('HMGET', meta, unpack(names, i, min(i + 499, #names)))
    for j = 1, #found do
      used[names[i + j - 1]] = #found[j] == PRODUCER_BYTES and select(2, unpack_(PRODUCER, found[j])) or 0
    end
  end
  table.sort(names, function(a, b) return used[a] < used[b] end)
  local gone = max(0, #names - PRODUCERS_KEPT + 1)
  for i = 1, gone do
    local name = names[i]
    call('HDEL', meta, name, block_of(name, 1), block_of(name, 9), block_of(name, 17), block_of(name, 25),
      block_of(name, 33), block_of(name, 41), block_of(name, 49), block_of(name, 57), block_of(name, 65))
  end
  return #names - gone
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
  local producer, fixed, bounds = args[5], args[6], bounds_read[args[7]] or read_bounds(args[7])
  if #fixed ~= FIXED_BYTES or not bounds then
    return redis.error_reply('ERR hg1_append: an argument is not what it must be')
  end
  local hash, pseq, size, today = unpack_(FIXED, fixed)
  local counted = producer ~= ''
  local block = counted and block_of(producer, pseq)

  -- what there is
  local epoch, seq, confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open, known,
    entries = state_of(meta, counted and producer, block)
  if not epoch then
    if seq then return seq end
    seq, confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open =
      0, 0, today, 0, 1, 0, 0, 0, 0, 0, 0
  end

  -- the producer's counter
  local before = counted and (pseq - 1) % BLOCK_ENTRIES * ENTRY_BYTES
  if known then
    if #known ~= PRODUCER_BYTES then return corrupt(meta, 'not a producer') end
    local last = unpack_(PRODUCER, known)
    if pseq ~= last + 1 then
      if pseq > last then return { 'out_of_order', '', '0', '0', '-1', text(last + 1) } end
      if last - pseq >= RING_ENTRIES then return { 'producer_seq_expired' } end
      if not entries or #entries < before + ENTRY_BYTES then return corrupt(meta, 'not a ring') end
      local its_hash, its_ms, its_run, its_seq = unpack_(ENTRY, entries, before + 1)
      if its_seq == 0 then return { 'producer_seq_expired' } end -- a memory that began behind it
      if its_hash ~= hash then return { 'producer_seq_reused' } end
      local its_epoch = epoch_of(its_ms, hex4(its_run))
      known = is_confirmed(meta, ahead, epoch, confirmed, its_epoch, its_seq)
      return { 'duplicate', its_epoch, text(its_seq), known and '1' or '0', text(partition) }
    end
  elseif counted then
    if pseq ~= 1 then return { 'producer_unknown' } end
  end
  if before == 0 then
    entries = '' -- what is there is 72 seqs older
  elseif counted and (not entries or #entries ~= before) then
    return corrupt(meta, 'not a ring')
  end

  -- the message id
  if id then
    local entry = pcall_('GET', id)
    if entry then
      if type(entry) == 'table' or #entry ~= ENTRY_BYTES then return corrupt(id, 'not a remembered message') end
      local its_hash, its_ms, its_run, its_seq = unpack_(ENTRY, entry)
      local its_epoch = epoch_of(its_ms, hex4(its_run))
      if epoch and is_real(meta, epoch, seq, its_epoch, its_seq) then
        if its_hash ~= hash then return { 'message_id_reused' } end
        if counted then
          uses = uses + 1
          if not known then
            if producers >= PRODUCERS_STORED then producers = forget(meta) end
            producers = producers + 1
          end
          call('HSET', meta, producer, pack(PRODUCER, pseq, uses), block, entries .. entry, 's', pack(STATE, epoch, seq,
            confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open))
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
  local ms = epoch and sub(epoch, 1, 13)
  local begin = not (epoch and found[1] == run and found[2] and ms >= found[2] and sub(epoch, 15) == run8)
  local shard_ms, last_ms
  if begin then
    if old_open > 0 then return { 'recovering' } end
    shard_ms, last_ms = epoch_under_us(shard, found, now)
    if not shard_ms then return last_ms end
  end

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
    frame = FRAME_START .. epoch .. format('-%016d",', seq + 1) .. rest
    added = pcall_('XADD', window, ms .. '-' .. text(seq + 1), 'f', frame, 'h', extras, 'c', text(written))
    if type(added) ~= 'table' then break end
    -- an entry behind the head is void; its id is spent, so the session goes on in an epoch of its own
    if begin or not string.find(added.err, 'equal or smaller', 1, true) then
      fault = corrupt(window, 'can not be appended to')
      break
    end
    if old_open > 0 then return { 'recovering' } end
    begin = true
    shard_ms, last_ms = epoch_under_us(shard, found, now)
    if not shard_ms then
      fault = last_ms
      break
    end
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
  if counted then
    uses = uses + 1
    if not known then
      if producers >= PRODUCERS_STORED then producers = forget(meta) end
      producers = producers + 1
    end
  end
  local state = pack(STATE, epoch, seq, confirmed, partition, open_bytes + size, first, written, trimmed, uses,
    producers, now, old_open)
  if counted and old then
    call('HSET', meta, 's', state, producer, pack(PRODUCER, pseq, uses), block, entries .. entry, 'old', old)
  elseif counted then
    call('HSET', meta, 's', state, producer, pack(PRODUCER, pseq, uses), block, entries .. entry)
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
