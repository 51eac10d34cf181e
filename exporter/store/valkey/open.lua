-- Opens the store, and creates it if it does not exist.
-- ARGV[1]: 1 for an exporter, which may create the store, else 0; the rest: names and values of a new store's meta.
-- Returns the meta, and the time of the last commit, microseconds.
local hour_ago, newest = micros() - 3600000000, 0
if ARGV[1] == '1' and redis.call('EXISTS', KEYS[1]) == 0 then
  for index = 2, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
  end
  redis.call('HSET', KEYS[1], 'commits', 0, 'tasks', 0, 'bytes', 0)
  redis.call('HSET', key('ledgers'), '[""]', 0)
  redis.call('HSET', key('ledger:0'), 'created', redis.call('HGET', KEYS[1], 'created'))
end
-- Earlier versions kept lists of changes in these keys, for scrapes. Without them such a version reads everything, which
-- is slower but right.
if ARGV[1] == '1' then
  redis.call('HDEL', KEYS[1], 'last', 'floor')
  redis.call('UNLINK', key('changed'), key('forgotten'), key('posted'))
end
-- `done` has the last commit of each client, to detect one that is sent again. A client sends a commit again only for
-- some seconds, so entries older than an hour are not needed.
local clients = redis.call('HGETALL', key('done'))
for index = 1, #clients, 2 do
  local last = tonumber(string.match(clients[index + 1], ' (%d+)$'))
  newest = math.max(newest, last)
  if last < hour_ago then
    redis.call('HDEL', key('done'), clients[index])
  end
end
return answer('ok', redis.call('HGETALL', KEYS[1]), newest)
