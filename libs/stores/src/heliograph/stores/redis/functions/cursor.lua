-- cursor: consumers have handled everything up to a position, or a lease claims a cursor. Many of one virtual shard a call.
--
-- KEYS: meta and cursors of each
-- ARGV: consumer, epoch and `fixed` of each. `fixed`: seq (8 bytes), fence (8). Epoch '': only claim, or look.
-- Answers of each [status, epoch, seq, fence] as the cursor stands (epoch '': it has acknowledged nothing), or an error.

-- epoch, seq, fence; the place before all positions where nothing was acknowledged
local CURSOR = '>c22I8I8'
local CURSOR_BYTES = 38
local NOWHERE = '0000000000000-00000000'
local ACK_FIXED = '>I8I8'
local ACK_FIXED_BYTES = 16

local function answer_of(status, epoch, seq, fence)
  if epoch == NOWHERE then return { status, '', '0', text(fence) } end
  return { status, epoch, text(seq), text(fence) }
end

local function cursor_one(meta, cursors, consumer, to_epoch, fixed)
  if #fixed ~= ACK_FIXED_BYTES then return redis.error_reply('ERR hg1_cursor: an argument is not what it must be') end
  local to_seq, claim = unpack_(ACK_FIXED, fixed)
  local head_epoch, head_seq = state_of(meta)
  if not head_epoch then return head_seq or answer_of('ahead', NOWHERE, 0, 0) end
  local known = pcall_('HGET', cursors, consumer)
  if type(known) == 'table' then return corrupt(cursors, 'not a hash') end
  local epoch, seq, fence = NOWHERE, 0, 0
  if known then
    if #known ~= CURSOR_BYTES or byte(known, 14) ~= 45 or not number(sub(known, 1, 13)) then
      return corrupt(cursors, 'not a cursor')
    end
    epoch, seq, fence = unpack_(CURSOR, known)
    if seq > MAX_SEQ then return corrupt(cursors, 'not a cursor') end
  end
  if claim > 0 and claim < fence then return answer_of('fenced', epoch, seq, fence) end
  if to_epoch ~= '' then
    local last_epoch, last_seq = head_epoch, head_seq
    if to_epoch < head_epoch then -- of epochs before the former one nobody knows the end
      last_epoch, last_seq = old_of(meta)
      if not last_epoch and last_seq then return last_seq end
    end
    if last_epoch and (to_epoch > last_epoch or (to_epoch == last_epoch and to_seq > last_seq)) then
      return answer_of('ahead', epoch, seq, fence)
    end
  end
  local moves = to_epoch ~= '' and (to_epoch > epoch or (to_epoch == epoch and to_seq > seq))
  if not moves and claim <= fence and (known or to_epoch == '') then return answer_of('ok', epoch, seq, fence) end
  -- a lease is one a session: it need not be counted
  if not known and claim == 0 and call('HLEN', cursors) >= CONSUMERS_KEPT then
    return answer_of('full', epoch, seq, fence)
  end
  if moves then epoch, seq = to_epoch, to_seq end
  fence = max(fence, claim)
  call('HSET', cursors, consumer, pack(CURSOR, epoch, seq, fence))
  return answer_of('ok', epoch, seq, fence)
end

local function cursor(keys, args)
  if not call then start() end
  local answers = {}
  for i = 1, #keys / 2 do
    answers[i] = cursor_one(keys[i * 2 - 1], keys[i * 2], args[i * 3 - 2], args[i * 3 - 1], args[i * 3])
  end
  return answers
end

redis.register_function('hg1_cursor', cursor)
