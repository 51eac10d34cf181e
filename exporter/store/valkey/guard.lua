-- After common.lua, in front of every script that runs on a store that is known.
local is_strange = stranger()
if is_strange then
  if is_strange == 'older' then
    -- For whoever opens it next: what was counted since is lost, and its counters can't go on.
    redis.call('HSET', KEYS[1], 'torn', 1)
  end
  return answer(is_strange)
end
