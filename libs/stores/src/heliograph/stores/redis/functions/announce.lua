-- announce: a presence frame to whoever is subscribed to its session, once an id.
--
-- KEYS: the announcement, window (the channel)
-- ARGV: frame
-- Answers 1, or 0 where it was announced before. The key alone says so: what it holds is never read.

local ANNOUNCED_MS = '600000' -- heliograph.core.limits.ANNOUNCED_S

local function announce(keys, args)
  if not call then start() end
  if not call('SET', keys[1], '', 'NX', 'PX', ANNOUNCED_MS) then return 0 end
  call('SPUBLISH', keys[2], args[1])
  return 1
end

redis.register_function('hg1_announce', announce)
