-- unconfirm: the log has lost positions of the present epoch that it was known to have: its topic was made again.
--
-- KEYS: meta, ahead, shard, dirty
-- ARGV: session, tenant, epoch, first and last of the positions, their size
-- Answers how many count as unconfirmed again: 0 where the session has moved on (another epoch, trimmed, confirmed less).
-- What is confirmed behind the last one stays so: it waits in `ahead`, as what was confirmed ahead of a hole does.

local function unconfirm(keys, args)
  if not call then start() end
  local meta, ahead, shard, dirty = keys[1], keys[2], keys[3], keys[4]
  local session, of_tenant = args[1], 'bytes:' .. args[2]
  local from, to, size = number(args[4]), number(args[5]), number(args[6])
  local epoch, seq, confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open =
    state_of(meta)
  if not epoch then return seq or 0 end
  if epoch ~= args[3] or from < first or to < from or to > confirmed then return 0 end
  if type(pcall_('ZCARD', ahead)) == 'table' then return corrupt(ahead, 'not a sorted set') end
  if type(pcall_('ZCARD', dirty)) == 'table' then return corrupt(dirty, 'not a sorted set') end
  local found = pcall_('HMGET', shard, 'bytes', of_tenant)
  if found.err then return corrupt(shard, 'not a hash') end
  local all_bytes, tenant_bytes = number(found[1] or 0), number(found[2] or 0)
  if not all_bytes or not tenant_bytes then return corrupt(shard, 'bytes are not a number') end

  -- from here on it is written
  local ms = sub(epoch, 1, 13) .. '-'
  for one = to + 1, confirmed do
    call('ZADD', ahead, text(one), ms .. text(one))
  end
  call('ZADD', dirty, 'NX', text(now_ms()), session)
  call('HSET', meta, 's', pack(STATE, epoch, seq, from - 1, partition, open_bytes + size, first, written, trimmed, uses,
    producers, at, old_open))
  call('HSET', shard, 'bytes', text(all_bytes + size), of_tenant, text(tenant_bytes + size))
  return to - from + 1
end

redis.register_function { function_name = 'hg1_unconfirm', callback = unconfirm, flags = { 'allow-oom' } }
