-- ARGV: whether to make a store where there is none, then the fields of its meta, by turns name and value.
-- Answers the meta, and when the last commit was that somebody may still try again, microseconds.
local hour_ago, newest = micros() - 3600000000, 0
if ARGV[1] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  for index = 2, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
  end
  redis.call('HSET', KEYS[1], 'commits', 0, 'tasks', 0, 'bytes', 0)
  redis.call('HSET', key('ledgers'), '[""]', 0)
  redis.call('HSET', key('ledger:0'), 'created', redis.call('HGET', KEYS[1], 'created'))
end
-- Versions before this one noted here what had changed, for scrapes. One that still runs reads all again without it.
if ARGV[1] == '1' then
  redis.call('HDEL', KEYS[1], 'last', 'floor')
  redis.call('UNLINK', key('changed'), key('forgotten'), key('posted'))
end
-- A commit is tried again for seconds; who was last here an hour ago tries none.
local clients = redis.call('HGETALL', key('done'))
for index = 1, #clients, 2 do
  local last = tonumber(string.match(clients[index + 1], ' (%d+)$'))
  newest = math.max(newest, last)
  if last < hour_ago then
    redis.call('HDEL', key('done'), clients[index])
  end
end
return answer('ok', redis.call('HGETALL', KEYS[1]), newest)
