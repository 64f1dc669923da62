-- expire: forget sessions that are idle and wholly confirmed. All keys of a session go in this one call.
--
-- KEYS: shard, dirty, idle, then meta, window, ahead, cursors of each session
-- ARGV: idle (ms), then each session
-- Answers how many were forgotten. `last` of the shard stays, so a session that comes back begins a later epoch; `gone`
-- of the shard is noted, so who was there before it began is not told that nothing came.

local LOOK_AGAIN_MS = 60000 -- at a session that is idle but not confirmed, or corrupt

local function expire(keys, args)
  if not call then start() end
  if #keys ~= 3 + (#args - 1) * 4 then return redis.error_reply('ERR hg1_expire: not four keys a session') end
  local shard, dirty, idle, idle_ms = keys[1], keys[2], keys[3], number(args[1])
  local next_ms, gone_ms = shard_of(shard)
  if not next_ms then return gone_ms end
  if type(pcall_('ZCARD', idle)) == 'table' then return corrupt(idle, 'not a sorted set') end
  if type(pcall_('ZCARD', dirty)) == 'table' then return corrupt(dirty, 'not a sorted set') end
  local now, gone = now_ms(), 0
  for i = 2, #args do
    local at = 4 + (i - 2) * 4
    local session, meta = args[i], keys[at]
    local due = number(call('ZSCORE', idle, session) or 'inf')
    if due and due <= now then
      local epoch, seq, confirmed, _, _, _, _, _, _, _, last, old_open = state_of(meta)
      local look = now + LOOK_AGAIN_MS
      if epoch then
        local open = seq - confirmed + old_open
        if last + idle_ms > now then look = last + idle_ms elseif open == 0 then look = nil end
      elseif not seq then
        look = nil
      end
      if look then
        call('ZADD', idle, text(look), session)
      else
        if epoch then
          gone_ms = note_gone(shard, gone_ms, epoch)
          gone = gone + 1
        end
        call('DEL', meta, keys[at + 1], keys[at + 2], keys[at + 3])
        call('ZREM', idle, session)
        call('ZREM', dirty, session)
      end
    end
  end
  return gone
end

redis.register_function { function_name = 'hg1_expire', callback = expire, flags = { 'allow-oom' } }
