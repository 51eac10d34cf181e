-- Resets the counters of a store that has lost commits: all of them start again at 0.
-- ARGV: the id and the number of commits of the store; its new id, and the time of the reset; and the tasks as they are
-- after it. Nothing is done if another process has reset the counters, or has written since the tasks were read.
local found = redis.call('HMGET', KEYS[1], 'id', 'commits', 'torn')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] or not found[3] then
  return answer('conflict')
end
local tasks = cmsgpack.unpack(ARGV[5])
for _, number in ipairs(redis.call('HVALS', key('ledgers'))) do
  local label_set = key('ledger:' .. number)
  for _, name in ipairs(redis.call('HKEYS', label_set)) do
    -- Values and exemplars. Times stay.
    if string.match(name, '^[ve]') then
      redis.call('HDEL', label_set, name)
    end
  end
  redis.call('HSET', label_set, 'created', ARGV[4])
end
for _, task in ipairs(tasks) do
  redis.call('HSET', key('tasks'), task[1], task[2])
end
-- All tasks become due: times 0.
redis.call('ZUNIONSTORE', key('due'), 1, key('due'), 'WEIGHTS', 0)
redis.call('HSET', KEYS[1], 'id', ARGV[3], 'created', ARGV[4])
redis.call('HDEL', KEYS[1], 'torn')
return answer('ok')
