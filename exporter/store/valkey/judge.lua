-- ARGV[3]: the settings that decide what is counted. With others all tasks become due.
if redis.call('HGET', KEYS[1], 'judged_by') ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'judged_by', ARGV[3])
  redis.call('ZUNIONSTORE', key('due'), 1, key('due'), 'WEIGHTS', 0)
end
return answer('ok')
