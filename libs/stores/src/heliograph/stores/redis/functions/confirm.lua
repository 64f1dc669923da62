-- confirm: the log has these positions. Many sessions of one virtual shard a call.
--
-- KEYS: shard, dirty, then meta and ahead of each session
-- ARGV: for each session: its name, tenant, epoch, and pairs of seq (8 bytes) and size (4 bytes)
-- Answers [next epoch, then of each session [epoch, seq, confirmed, first] or an error].

local PAIR = '>I8I4'
local PAIR_BYTES = 12

local function take(shard, field, amount)
  local left = pcall_('HINCRBY', shard, field, text(-amount))
  if type(left) == 'table' then return corrupt(shard, 'bytes are not a number') end
  if left < 0 then call('HSET', shard, field, '0') end
end

-- `waiting`: how many positions wait in `ahead`
local function confirm_one(meta, ahead, waiting, dirty, shard, session, tenant, of_epoch, pairs_)
  local epoch, seq, confirmed, partition, open_bytes, first, written, trimmed, uses, producers, at, old_open =
    state_of(meta)
  if not epoch then
    if seq then return seq end
    call('ZREM', dirty, session)
    return { '', '0', '0', '0' }
  end
  local last, upto, fault = seq, confirmed, nil
  local known = of_epoch == epoch
  if not known and old_open > 0 then
    local old_epoch, old_last, old_confirmed = old_of(meta)
    if not old_epoch then return old_last or corrupt(meta, 'has no former epoch') end
    if old_epoch == of_epoch then known, last, upto = true, old_last, old_confirmed end
  end
  local before, freed, reached = upto, 0, {}
  if known then
    local ms = sub(of_epoch, 1, 13) .. '-'
    for at_byte = 1, #pairs_, PAIR_BYTES do
      local one, size = unpack_(PAIR, pairs_, at_byte)
      if one == upto + 1 and one <= last then
        upto, freed = one, freed + size
        while waiting > #reached do
          local member = ms .. text(upto + 1)
          if not call('ZSCORE', ahead, member) then break end
          upto = upto + 1
          reached[#reached + 1] = member
        end
      elseif one > upto and one <= last then
        if call('ZADD', ahead, text(one), ms .. text(one)) == 1 then
          waiting, freed = waiting + 1, freed + size
        end
      end
    end
  end
  if of_epoch == epoch then confirmed = upto elseif known then old_open = last - upto end
  local open = seq - confirmed + old_open
  if open == 0 then freed = open_bytes end -- whatever the sizes said: nothing is unconfirmed
  freed = min(freed, open_bytes)
  if freed > 0 then
    fault = take(shard, 'bytes:' .. tenant, freed) or take(shard, 'bytes', freed)
    if fault then return fault end
  end
  if upto > before or freed > 0 then
    local state = pack(STATE, epoch, seq, confirmed, partition, open_bytes - freed, first, written, trimmed, uses,
      producers, at, old_open)
    if of_epoch ~= epoch and known then
      call('HSET', meta, 's', state, 'old', pack(OLD, of_epoch, last, upto))
    else
      call('HSET', meta, 's', state)
    end
  end
  for i = 1, #reached, 500 do -- only now: until the state says so, `ahead` is all that knows of them
    call('ZREM', ahead, unpack(reached, i, min(i + 499, #reached)))
  end
  if open == 0 then
    call('ZREM', dirty, session)
  elseif upto > before then
    -- the oldest one left is younger than this call, so this is never too early
    call('ZADD', dirty, 'XX', text(now_ms()), session)
  end
  return { epoch, text(seq), text(confirmed), text(first) }
end

local function confirm(keys, args)
  if not call then start() end
  local next_ms, fault = shard_of(keys[1])
  if not next_ms then return fault end
  if type(pcall_('ZCARD', keys[2])) == 'table' then return corrupt(keys[2], 'not a sorted set') end
  local answers = { epoch_of(next_ms, run8) }
  for i = 0, #keys / 2 - 2 do
    local ahead = keys[4 + i * 2]
    local waiting, answer = pcall_('ZCARD', ahead), nil
    if type(waiting) == 'table' then
      answer = corrupt(ahead, 'not a sorted set')
    elseif #args[4 + i * 4] % PAIR_BYTES ~= 0 then
      answer = redis.error_reply('ERR hg1_confirm: pairs are cut')
    else
      answer = confirm_one(keys[3 + i * 2], ahead, waiting, keys[2], keys[1], args[1 + i * 4], args[2 + i * 4],
        args[3 + i * 4], args[4 + i * 4])
    end
    answers[i + 2] = answer
  end
  return answers
end

redis.register_function { function_name = 'hg1_confirm', callback = confirm, flags = { 'allow-oom' } }
