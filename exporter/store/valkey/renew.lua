-- ARGV: the id and the commits of a torn store, the id and the time of its new generation, and the tasks as they
-- are in that. Nothing is done if another process has begun it, or has written since the tasks were read.
local found = redis.call('HMGET', KEYS[1], 'id', 'commits', 'torn')
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] or not found[3] then
  return answer('conflict')
end
local tasks = cmsgpack.unpack(ARGV[5])
for _, number in ipairs(redis.call('HVALS', key('ledgers'))) do
  local ledger = key('ledger:' .. number)
  for _, name in ipairs(redis.call('HKEYS', ledger)) do
    if string.match(name, '^[ve]') then
      redis.call('HDEL', ledger, name)
    end
  end
  redis.call('HSET', ledger, 'created', ARGV[4])
end
for _, task in ipairs(tasks) do
  redis.call('HSET', key('tasks'), task[1], task[2])
end
redis.call('ZUNIONSTORE', key('due'), 1, key('due'), 'WEIGHTS', 0)
redis.call('HSET', KEYS[1], 'id', ARGV[3], 'created', ARGV[4])
redis.call('HDEL', KEYS[1], 'torn')
return answer('ok')
