-- heads, page, confirmed, unconfirmed: what there is. None of them writes, so a replica and a full server answer too.

-- heads of many sessions of one virtual shard.
-- KEYS: shard, then meta of each session
-- Answers [next epoch, then of each session [epoch, seq, confirmed, first, partition] or an error].
local function heads(keys)
  if not call then start() end
  local next_ms, fault = shard_of(keys[1])
  if not next_ms then return fault end
  local answers = { epoch_of(next_ms, run8) }
  for i = 2, #keys do
    local epoch, seq, confirmed, partition, _, first = state_of(keys[i])
    if epoch then
      answers[i] = { epoch, text(seq), text(confirmed), text(first), text(partition) }
    else
      answers[i] = seq or { '', '0', '0', '0', '-1' }
    end
  end
  return answers
end

-- whether (epoch, seq) is where a session without keys stood under this process, and none of its messages since then
-- was forgotten: who was told it has missed nothing but what there is now
local function is_before_first(epoch, seq, next_ms, gone)
  if seq ~= 0 or sub(epoch, 15) ~= run8 then return false end
  local ms = number(sub(epoch, 1, 13))
  return gone < ms and ms <= next_ms
end

-- a page of the window.
-- KEYS: meta, window, shard
-- ARGV: epoch and seq after which ('' and 0: from the window's first), bytes of frames
-- Answers [next epoch, epoch, seq, confirmed, first, complete, more, frame …].
local function page(keys, args)
  if not call then start() end
  local meta, window = keys[1], keys[2]
  local after_epoch, after_seq, room = args[1], number(args[2]), number(args[3])
  local next_ms, gone = shard_of(keys[3])
  if not next_ms then return gone end
  local epoch, seq, confirmed, _, _, first = state_of(meta)
  if not epoch and seq then return seq end
  local from_before = after_epoch ~= '' and is_before_first(after_epoch, after_seq, next_ms, gone)
  local answer = { epoch_of(next_ms, run8), '', '0', '0', '0', (after_epoch == '' or from_before) and '1' or '0', '0' }
  if not epoch then return answer end
  answer[2], answer[3], answer[4], answer[5] = epoch, text(seq), text(confirmed), text(first)
  local head_ms = sub(epoch, 1, 13)
  local complete, more = after_epoch == '' or after_epoch == epoch, false
  local last_ms, last_seq, from = nil, nil, '-'
  if after_epoch ~= '' then
    from = '(' .. sub(after_epoch, 1, 13) .. '-' .. text(after_seq)
    if from_before and not complete and after_epoch < epoch and sub(epoch, 15) == run8 then
      local old_epoch, fault = old_of(meta)
      if fault and not old_epoch then return fault end
      complete = not old_epoch -- the first epoch that the session has had since
    end
    if complete then last_ms, last_seq = head_ms, after_seq end
  end
  local to, chunk, size = head_ms .. '-' .. text(seq), 8, 0
  while not more do
    local entries = pcall_('XRANGE', window, from, to, 'COUNT', chunk)
    if entries.err then return corrupt(window, 'not a stream') end
    for i = 1, #entries do
      local frame = entry_of(entries[i])
      if not frame then return corrupt(window, 'not a window entry') end
      if size > 0 and size + #frame > room then
        more = true
        break
      end
      size = size + #frame
      local its_ms, its_seq = match(entries[i][1], '^(%d+)%-(%d+)$')
      its_seq = number(its_seq)
      if last_ms and not (its_ms == last_ms and its_seq == last_seq + 1) then
        local old_epoch, old_last = old_of(meta)
        local follows = old_epoch and its_seq == 1 and sub(old_epoch, 1, 13) == last_ms and old_last == last_seq
        complete = complete and follows
      end
      last_ms, last_seq = its_ms, its_seq
      answer[#answer + 1] = frame
    end
    if #entries < chunk then break end
    from = '(' .. entries[#entries][1]
    if size * 2 < room and chunk < 256 then chunk = chunk * 2 end
  end
  if not more and last_ms and (last_ms ~= head_ms or last_seq < seq) then complete = false end
  if not more and not last_ms and seq > 0 then complete = false end
  answer[6], answer[7] = complete and '1' or '0', more and '1' or '0'
  return answer
end

-- whether an epoch before the former one gave a position, as the window shows. Then the log has it: no epoch is followed
-- by another but one before it is confirmed.
local function in_window(window, of_epoch, seq)
  local id = sub(of_epoch, 1, 13) .. '-' .. text(seq)
  local found = pcall_('XRANGE', window, id, id)
  local frame = found[1] and entry_of(found[1])
  return frame and sub(frame, FRAME_EPOCH, FRAME_EPOCH + #of_epoch - 1) == of_epoch
end

-- whether the log is known to have positions.
-- KEYS: meta, ahead, window
-- ARGV: epoch and seq of each
-- Answers '1' (yes), '0' (no) or '?' (can't be told) for each.
local function confirmed_(keys, args)
  if not call then start() end
  local meta, ahead, window = keys[1], keys[2], keys[3]
  local epoch, seq, confirmed = state_of(meta)
  if not epoch and seq then return seq end
  if type(pcall_('ZCARD', ahead)) == 'table' then return corrupt(ahead, 'not a sorted set') end
  local old_epoch, old_last, old_confirmed
  if epoch then
    old_epoch, old_last, old_confirmed = old_of(meta)
    if not old_epoch and old_last then return old_last end
  end
  local answers = {}
  for i = 1, #args, 2 do
    local one, last, upto = number(args[i + 1]), nil, nil
    if args[i] == epoch then
      last, upto = seq, confirmed
    elseif args[i] == old_epoch then
      last, upto = old_last, old_confirmed
    end
    local answer = '?'
    if last and one <= last then
      local known = one <= upto or call('ZSCORE', ahead, sub(args[i], 1, 13) .. '-' .. text(one)) ~= false
      answer = known and '1' or '0'
    elseif old_epoch and args[i] < old_epoch and in_window(window, args[i], one) then
      answer = '1'
    end
    answers[#answers + 1] = answer
  end
  return answers
end

-- messages that the log is not known to have, oldest first.
-- KEYS: meta, window, ahead
-- ARGV: how many, bytes of frames (at least one is given)
-- Answers [epoch, seq, frame or nil, extras] for each, in one list.
local function unconfirmed(keys, args)
  if not call then start() end
  local meta, window, ahead = keys[1], keys[2], keys[3]
  local limit, room = number(args[1]), number(args[2])
  local epoch, seq, confirmed, _, _, _, _, _, _, _, _, old_open = state_of(meta)
  if not epoch then return seq or {} end
  local members = pcall_('ZRANGE', ahead, 0, -1)
  if members.err then return corrupt(ahead, 'not a sorted set') end
  local known = {}
  for i = 1, #members do known[members[i]] = true end
  local spans = { { epoch, confirmed + 1, seq } }
  if old_open > 0 then
    local old_epoch, old_last, old_confirmed = old_of(meta)
    if not old_epoch then return old_last or corrupt(meta, 'has no former epoch') end
    table.insert(spans, 1, { old_epoch, old_confirmed + 1, old_last })
  end
  local answer, size = {}, 0
  for _, span in ipairs(spans) do
    for one = span[2], span[3] do
      local id = sub(span[1], 1, 13) .. '-' .. text(one)
      if not known[id] then
        if #answer >= limit * 4 then return answer end
        local found = pcall_('XRANGE', window, id, id)
        if found.err then return corrupt(window, 'not a stream') end
        local frame, extras = false, ''
        if found[1] then
          frame, extras = entry_of(found[1])
          if not frame then return corrupt(window, 'not a window entry') end
          size = size + #frame
          if size > room and #answer > 0 then return answer end
        end
        local n = #answer
        answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = span[1], text(one), frame, extras
      end
    end
  end
  return answer
end

redis.register_function { function_name = 'hg1_heads', callback = heads, flags = { 'no-writes' } }
redis.register_function { function_name = 'hg1_page', callback = page, flags = { 'no-writes' } }
redis.register_function { function_name = 'hg1_confirmed', callback = confirmed_, flags = { 'no-writes' } }
redis.register_function { function_name = 'hg1_unconfirmed', callback = unconfirmed, flags = { 'no-writes' } }
