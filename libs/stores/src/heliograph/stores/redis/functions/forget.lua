-- forget: remove all that there is of sessions, whatever is confirmed, for a tenant whose data goes.
--
-- KEYS: shard, dirty, idle, then meta, window, ahead, cursors of each session
-- ARGV: each session
-- Answers how many had keys. What they had unconfirmed no longer counts for shard and tenant; `last` of the shard
-- stays, so a session that begins again has a later epoch, and `gone` is noted as `expire` does. A corrupt one goes like
-- any other.

local function forget(keys, args)
  if not call then start() end
  if #keys ~= 3 + #args * 4 then return redis.error_reply('ERR hg1_forget: not four keys a session') end
  local shard, dirty, idle, gone = keys[1], keys[2], keys[3], 0
  local next_ms, gone_ms = shard_of(shard)
  if not next_ms then return gone_ms end
  if type(pcall_('ZCARD', idle)) == 'table' then return corrupt(idle, 'not a sorted set') end
  if type(pcall_('ZCARD', dirty)) == 'table' then return corrupt(dirty, 'not a sorted set') end
  for i = 1, #args do
    local at, session = 4 + (i - 1) * 4, args[i]
    local epoch, _, _, _, open_bytes = state_of(keys[at])
    if epoch and open_bytes > 0 then
      local fault = take(shard, 'bytes:' .. match(session, '^[^:]*'), open_bytes) or take(shard, 'bytes', open_bytes)
      if fault then return fault end
    end
    if epoch then gone_ms = note_gone(shard, gone_ms, epoch) end
    if call('DEL', keys[at], keys[at + 1], keys[at + 2], keys[at + 3]) > 0 then gone = gone + 1 end
    call('ZREM', idle, session)
    call('ZREM', dirty, session)
  end
  return gone
end

redis.register_function { function_name = 'hg1_forget', callback = forget, flags = { 'allow-oom' } }
