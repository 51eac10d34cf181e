-- This file follows common.lua in every script that may only run on the store that the exporter knows.
local problem = check_store()
if problem then
  if problem == 'older' then
    -- Commits are lost, so the counters can't continue. The next exporter that opens the store sets them to 0.
    redis.call('HSET', KEYS[1], 'torn', 1)
  end
  return answer(problem)
end
